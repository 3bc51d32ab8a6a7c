"""The command line. Heavy imports happen inside commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.errors import (
    HeadwaterError,
    HeadwaterWarning,
    ParameterError,
    QueryError,
    StoreError,
)
from headwater.terminal import journey_table, print_facts, quiet_libraries, say, table

if TYPE_CHECKING:
    import torch

    from headwater.attribution import Attribution
    from headwater.index import Index
    from headwater.pictures import Image, Picture
    from headwater.preparing import Question
    from headwater.rewards import Scorer

app = typer.Typer(
    help="A diffusion model made this; which training images taught it that?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEMO_PROMPT = "a red star in hatched style on a striped background"
DEMO_CONCEPTS = ("star", "hatched")
DEMO_GUIDANCE = 3.0

Method = Annotated[
    str | None, typer.Option(help="One that the index serves (headwater info); see methods.")
]
Damping = Annotated[
    str, typer.Option(help="Of the kernel, in mean eigenvalues; several with commas.")
]
Candidates = Annotated[
    str | None, typer.Option(help="clip:COUNT or pixel:COUNT: only the most similar compete.")
]
ClipFolder = Annotated[Path | None, typer.Option("--clip", help="Folder of a CLIP model.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def main() -> None:
    """Run the command line: errors that the user can mend are one line, exit code 2."""
    warnings.simplefilter("ignore")  # what third parties say of themselves
    warnings.simplefilter("default", HeadwaterWarning)
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    try:
        app()
    except HeadwaterError as error:
        say(f"headwater: {error}")
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # typer's own code for Ctrl-C
            raise
        say("headwater: interrupted; finished work is kept, the same command goes on from there")
        sys.exit(130)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the index and the answers.")] = Path(
        "headwater-demo"
    ),
) -> None:
    """Index the bundled scenes, draw a prompt, and ask for its object and for its style."""
    quiet_libraries()
    from headwater.building import build_index
    from headwater.dataset import load_dataset
    from headwater.denoiser import Denoiser
    from headwater.queries import Concept

    index = build_index(
        Denoiser.load("scenes"), load_dataset("scenes"), out / "scenes-index", note=say
    )
    queries = [Concept(DEMO_PROMPT, words) for words in DEMO_CONCEPTS]
    _answer(index, queries, out / "answers", guidance=DEMO_GUIDANCE)


@app.command()
def index(
    model: Annotated[str, typer.Argument(help="A local folder, a hub name, or `scenes`.")],
    data: Annotated[
        str, typer.Argument(help="A folder, a parquet file, a `datasets` name, or `scenes`.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the index.")],
    method: Annotated[str, typer.Option(help="Attribution method.")] = "concept-trak",
    parameters: Annotated[
        str, typer.Option(help="attn2, attn2-kv, attn, up_blocks, lora, all, or a regex.")
    ] = "attn2",
    timesteps: Annotated[int, typer.Option(help="Probes per image, evenly spaced.")] = 10,
    dim: Annotated[
        int | None, typer.Option(help="Features per image (8192, or all parameters if fewer).")
    ] = None,
    projection: Annotated[
        str, typer.Option(help="count-sketch, factored, mask, gaussian, rademacher, identity.")
    ] = "count-sketch",
    inversion_guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance of the inversion; 1 is none.")
    ] = 1.0,
    draws: Annotated[int, typer.Option(help="Of noise at each timestep.")] = 1,
    clip: ClipFolder = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="More models to average over; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of projections and noise.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    batch_size: Annotated[str, typer.Option(help="Images at a time, or `auto`.")] = "auto",
    limit: Annotated[int | None, typer.Option(help="Only the first N images.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files that are no images.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop an index that is there already.")
    ] = False,
    self_check: Annotated[
        bool, typer.Option(help="First compare gradients with float64 autograd.")
    ] = True,
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile what lies between the layers.")
    ] = False,
    encodings: Annotated[
        Path | None, typer.Option(help="Folder that keeps encoded images and captions.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take; write nothing.")
    ] = False,
) -> None:
    """Compute the features of every training image. Run again, it goes on where it stopped."""
    size, precision = _batch_size(batch_size), _dtype(dtype)
    quiet_libraries()
    from headwater.building import build_index
    from headwater.dataset import load_dataset
    from headwater.denoiser import Denoiser
    from headwater.estimating import estimate
    from headwater.recipe import plan
    from headwater.similarity import Clip

    images = load_dataset(data)
    images = images if limit is None else images.first(limit)
    denoiser = Denoiser.load(model, device, precision)
    recipe: dict[str, Any] = dict(
        method=method,
        parameters=parameters,
        timesteps=timesteps,
        dim=dim,
        seed=seed,
        projection=projection,
        inversion_guidance=inversion_guidance,
        draws=draws,
        clip=None if clip is None else Clip(clip, denoiser.device),
    )
    if dry_run:
        planned = plan(denoiser, **recipe)
        print_facts(estimate(denoiser, images, planned, size, recipe["clip"]))
        return
    built = build_index(
        denoiser,
        images,
        out,
        batch_size=size,
        skip_bad=skip_bad,
        overwrite=overwrite,
        self_check=self_check,
        compile=compile,
        encodings=encodings,
        checkpoints=checkpoint or (),
        note=say,
        **recipe,
    )
    skipped = built.manifest.skipped
    if skipped:
        say(f"skipped {len(skipped)} bad file(s): {', '.join(skipped[:5])}")
    print(f"{len(built)} rows of {built.recipe.dim} features in {out}")


@app.command()
def concept(
    index: Annotated[Path, typer.Argument(help="Folder of an index.")],
    prompt: Annotated[str, typer.Argument(help="The prompt that holds the concept.")],
    concept: Annotated[
        list[str] | None, typer.Option(help="Words of the prompt; may be repeated.")
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(help="module:function of images, differentiable; instead of --concept."),
    ] = None,
    reward_text: Annotated[
        str | None,
        typer.Option(help="Words that pictures should look like, by --clip; instead of --concept."),
    ] = None,
    local: Annotated[
        Path | None,
        typer.Option(
            help="A picture: ask for --concept as it shows it; without --concept, for all that it "
            "shows besides what the prompt (may be '') names.",
            metavar="IMAGE",
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Of --local: a picture of its size, white where it counts.")
    ] = None,
    minus: Annotated[
        str | None, typer.Option(help="The prompt without the concept, if not by taking it out.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Prompt that trajectories run under (the prompt itself).")
    ] = None,
    context: Annotated[
        str, typer.Option(help="auto, prompt, bare, or a file of prompts with the concept.")
    ] = "auto",
    draws: Annotated[str, typer.Option(help="Trajectories per concept, or `auto`.")] = "32",
    seed: Annotated[int, typer.Option(help="Seed of the picture and of the draws.")] = 0,
    top: Annotated[int, typer.Option(help="How many proponents and opponents.")] = 10,
    guidance: Annotated[float, typer.Option(help="Guidance scale of the query's picture.")] = 5.0,
    method: Method = None,
    damping: Damping = "0.1",
    candidates: Candidates = None,
    clip: ClipFolder = None,
    swap: Annotated[
        bool, typer.Option("--swap", help="Exchange c+ and c-: ask for the want of the concept.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the answer.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute the query's gradient again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this concept of the prompt, or to raise a reward?"""
    asking = _asking(method, damping, candidates, fresh)
    count = _draws(draws)
    ways = {"--concept": concept, "--reward": reward, "--reward-text": reward_text}
    asked = _only_one(ways if concept and local else ways | {"--local": local})
    if mask is not None and local is None:
        raise QueryError("--mask is a part of the picture of --local: give that too")
    if not concept:
        of_words = {"--minus": minus is not None, "--base": base is not None, "--swap": swap}
        of_words |= {"--context": context != "auto", "--candidates": reward and candidates}
        _refuse(of_words, asked)
    quiet_libraries()
    from headwater.local import Local, whole_picture
    from headwater.queries import Concept
    from headwater.rewards import Reward

    if minus is not None and len(concept or ()) > 1:
        raise QueryError(
            "--minus is the prompt without one concept: ask for one --concept at a time"
        )
    opened = _open(index, device, clip)
    concepts = [
        Concept(prompt, words, minus, base, context, count, seed, swap) for words in concept or ()
    ]
    queries: Sequence[Question] = concepts
    if local is not None:
        whole = whole_picture(prompt, local, mask=mask, draws=count, seed=seed)
        queries = [Local(each, local, mask) for each in concepts] or [whole]
    elif not concept:
        queries = [Reward(prompt, _scorer(opened, reward, reward_text), count, seed)]
    _answer(opened, queries, out, guidance=guidance, top=top, as_json=as_json, **asking)


@app.command()
def image(
    index: Annotated[Path, typer.Argument(help="Folder of an index.")],
    file: Annotated[Path | None, typer.Argument(help="A picture file.", metavar="IMAGE")] = None,
    prompt: Annotated[str, typer.Option(help="Makes the picture; or says what it is of.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the picture and of the draws.")] = 0,
    mask: Annotated[
        Path | None, typer.Option(help="A picture of the same size, white where it counts.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="A timestep of the picture's making (999 to 19 by 20).")
    ] = None,
    journey: Annotated[
        bool, typer.Option("--journey", help="Every step of its making that the index has.")
    ] = False,
    draws: Annotated[str, typer.Option(help="Of noise, or `auto`.")] = "32",
    top: Annotated[int, typer.Option(help="How many proponents and opponents.")] = 10,
    guidance: Annotated[float, typer.Option(help="Guidance scale of the picture.")] = 5.0,
    method: Method = None,
    damping: Damping = "0.1",
    candidates: Candidates = None,
    clip: ClipFolder = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the answer.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute the query's gradient again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this picture, a part of it, or a step of it?"""
    asking = _asking(method, damping, candidates, fresh)
    count = _draws(draws)
    quiet_libraries()
    from headwater.pictures import Image

    query = Image(prompt, file, mask, step, count, seed, guidance)
    opened = _open(index, device, clip)
    if journey:
        _journey(opened, query, out, top, as_json, **asking)
    else:
        _answer(opened, [query], out, guidance=guidance, top=top, as_json=as_json, **asking)


@app.command()
def preference(
    index: Annotated[Path, typer.Argument(help="Folder of an index.")],
    pairs: Annotated[
        Path, typer.Argument(help="A folder with winners/ and losers/, or a parquet file.")
    ],
    draws: Annotated[str, typer.Option(help="Pairs to ask about; `auto` takes all.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the choice of pairs.")] = 0,
    top: Annotated[int, typer.Option(help="How many proponents and opponents.")] = 10,
    method: Method = None,
    damping: Damping = "0.1",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the answer.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute the query's gradient again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model what the winners of these pairs have?"""
    asking = _asking(method, damping, None, fresh)
    count = _draws(draws)
    quiet_libraries()
    from headwater.preferences import Preference, load_pairs

    query = Preference(load_pairs(pairs), count, seed)
    opened = _open(index, device, None)
    _answer(opened, [query], out, top=top, as_json=as_json, **asking)


@app.command()
def methods(as_json: Json = False) -> None:
    """The table of methods: what each computes, what it can be asked for, and what it costs."""
    from headwater.methods import METHODS
    from headwater.terminal import methods_table

    rows = [method.facts() for method in METHODS.values()]
    print(json.dumps(rows) if as_json else methods_table(rows))


@app.command()
def info(
    index: Annotated[Path, typer.Argument(help="Folder of an index.")],
    as_json: Json = False,
) -> None:
    """What an index holds, what it was made of, and what it can answer."""
    from headwater import store
    from headwater.methods import Side, served_by

    manifest = store.read_manifest(index)
    recipe = manifest.recipe
    done = store.finished_shards(index, manifest)
    ranges = store.shard_ranges(manifest.data["rows"], manifest.shard_rows)
    facts = {
        "state": "complete" if manifest.complete else "unfinished, run `headwater index` again",
        "rows": sum(shard.rows for shard in done.values()),
        "skipped": sum(len(shard.skipped) for shard in done.values()),
        "shards": f"{len(done)} of {len(ranges)} whole",
        "size (MB)": round(sum(shard.bytes for shard in done.values()) / 1e6, 1),
        "methods": ", ".join(
            served_by(
                Side(recipe["train_path"], recipe["train_delta"]),
                recipe["normalise"],
                1 + manifest.checkpoints,
            )
        ),
        "model": manifest.model["source"],
        "model fingerprint": manifest.model["fingerprint"][:16],
        "data": manifest.data["source"],
        "data fingerprint": manifest.data["fingerprint"][:16],
        "parameters": f"{recipe['parameters']} ({len(recipe['layers'])} layers)",
        "features": f"{recipe['dim']} by {recipe['projection']}, seed {recipe['seed']}",
        "timesteps": " ".join(map(str, recipe["timesteps"])),
        "written by": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
    }
    if as_json:
        print(json.dumps(facts))
    else:
        print_facts(facts)
    if manifest.complete and len(done) < len(ranges):
        raise StoreError(
            f"{len(ranges) - len(done)} shard(s) of {index} are missing or damaged: run the same "
            "`headwater index` command again to rebuild them"
        )


# --- shared by the commands -----------------------------------------------------------------------


def _answer(
    index: Index,
    queries: Sequence[Question],
    out: Path | None,
    *,
    guidance: float = 5.0,
    top: int = 10,
    as_json: bool = False,
    **asking: Any,
) -> None:
    """Ask each question, write the folder, print a table or JSON."""
    from headwater.answers import slug, write_answers

    if top < 1:
        raise ParameterError(f"--top {top} must be at least 1")
    first = queries[0]
    name = slug(first.prompt or first.title)
    folder = out or Path("headwater-answers") / f"{name}-{first.seed}"
    attributions = [index.attribute(query, note=say, **asking) for query in queries]
    answer = write_answers(folder, attributions, _shown(index, first, guidance), top)
    _save_tokens(index, attributions, folder)
    if as_json:
        print(json.dumps(answer, ensure_ascii=False))
        return
    for attribution, result in zip(attributions, answer["results"], strict=True):
        print(table(attribution, result["top"]))
    print(f"\nReport: {folder / 'report.html'}")


def _save_tokens(index: Index, attributions: Sequence[Attribution], out: Path) -> None:
    """Beside the answers, the tokens that were learned for them."""
    from headwater.answers import slug
    from headwater.local import Local
    from headwater.textual_inversion import save_token

    for attribution in attributions:
        query = attribution.query
        if isinstance(query, Local) and "learned" in attribution.provenance["query"]:
            token = query.at(index).token(index.denoiser)
            save_token(out / slug(query.title) / "token.safetensors", token)


def _journey(
    index: Index, query: Image, out: Path | None, top: int, as_json: bool, **asking: Any
) -> None:
    """Ask of every step, write the folder, print a line for each step or JSON."""
    from headwater.answers import slug
    from headwater.journey import journey
    from headwater.journey_report import write_journey

    if top < 1:
        raise ParameterError(f"--top {top} must be at least 1")
    folder = out or Path("headwater-answers") / f"{slug(query.prompt)}-{query.seed}-journey"
    answer = write_journey(folder, query, journey(index, query, note=say, **asking), top)
    print(json.dumps(answer, ensure_ascii=False) if as_json else journey_table(answer))
    if not as_json:
        print(f"\nReport: {folder / 'report.html'}")


def _shown(index: Index, query: Question, guidance: float) -> Picture:
    """The picture that stands for a question: its own, or one that the model makes."""
    from headwater.local import Local
    from headwater.pictures import Image
    from headwater.preferences import Preference

    if isinstance(query, Preference | Local):
        return query.picture(index.denoiser)
    if not isinstance(query, Image):
        query = Image(query.prompt, None, seed=query.seed, guidance=guidance)
    return index.picture(query)


def _scorer(index: Index, reward: str | None, text: str | None) -> Scorer:
    from headwater.rewards import from_module, similarity_to

    return similarity_to(text or "", index.clip()) if reward is None else from_module(reward)


def _only_one(options: Mapping[str, Any]) -> str:
    """The one option of these that is given."""
    given = [name for name, value in options.items() if value]
    if not given:
        raise QueryError(f"nothing is asked for: give {' or '.join(options)}")
    if len(given) > 1:
        raise QueryError(f"{' and '.join(given)} are different questions: give one of them")
    return given[0]


def _refuse(options: Mapping[str, Any], asked: str) -> None:
    """Refuse what would be ignored."""
    for name, value in options.items():
        if value:
            raise QueryError(f"{name} does not go with {asked}: leave it out")


def _asking(
    method: str | None, damping: str, candidates: str | None, fresh: bool
) -> dict[str, Any]:
    """Options of every method, for `attribute`."""
    try:
        ratios = [float(each) for each in damping.split(",")]
    except ValueError:
        raise QueryError(
            f"--damping {damping!r} must be a number, or several with commas"
        ) from None
    one = ratios[0] if len(ratios) == 1 else ratios
    return {"method": method, "damping": one, "candidates": candidates, "fresh": fresh}


def _open(index: Path, device: str | None, clip: Path | None) -> Index:
    from headwater.index import Index
    from headwater.similarity import Clip

    return Index.open(
        index, device=device, clip=None if clip is None else Clip(clip, device or "cpu")
    )


def _draws(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise QueryError(f"--draws {text!r} must be a number, or `auto`") from None


def _dtype(text: str) -> torch.dtype:
    if text not in ("float32", "bfloat16", "float16"):
        raise ParameterError(f"--dtype {text!r} is not one of float32, bfloat16, float16")
    import torch

    return getattr(torch, text)


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise ParameterError(f"--batch-size {text!r} must be a positive number or `auto`")
    return int(text)


if __name__ == "__main__":
    main()
