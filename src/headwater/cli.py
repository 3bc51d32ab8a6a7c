"""The command line. Heavy imports happen inside commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
import warnings
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
from headwater.terminal import print_facts, quiet_libraries, say, table

if TYPE_CHECKING:
    from headwater.index import Index

app = typer.Typer(
    help="A diffusion model made this; which training images taught it that?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEMO_PROMPT = "a red star in hatched style on a striped background"
DEMO_CONCEPTS = ("star", "hatched")
DEMO_GUIDANCE = 3.0

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

    index = build_index(
        Denoiser.load("scenes"), load_dataset("scenes"), out / "scenes-index", note=say
    )
    _answer(index, DEMO_PROMPT, DEMO_CONCEPTS, out / "answers", guidance=DEMO_GUIDANCE)


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
    seed: Annotated[int, typer.Option(help="Seed of projections and noise.")] = 0,
    batch_size: Annotated[str, typer.Option(help="Images at a time, or `auto`.")] = "auto",
    limit: Annotated[int | None, typer.Option(help="Only the first N images.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files that are no images.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop an index that is there already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take; write nothing.")
    ] = False,
) -> None:
    """Compute the features of every training image. Run again, it goes on where it stopped."""
    size = _batch_size(batch_size)
    quiet_libraries()
    from headwater.building import build_index, estimate
    from headwater.dataset import load_dataset
    from headwater.denoiser import Denoiser
    from headwater.recipe import plan

    images = load_dataset(data)
    images = images if limit is None else images.first(limit)
    denoiser = Denoiser.load(model, device)
    recipe: dict[str, Any] = dict(
        method=method, parameters=parameters, timesteps=timesteps, dim=dim, seed=seed
    )
    if dry_run:
        print_facts(estimate(denoiser, images, plan(denoiser, **recipe), size))
        return
    built = build_index(
        denoiser,
        images,
        out,
        batch_size=size,
        skip_bad=skip_bad,
        overwrite=overwrite,
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
    concept: Annotated[list[str], typer.Option(help="Words of the prompt; may be repeated.")],
    minus: Annotated[
        str | None, typer.Option(help="The prompt without the concept, if not by taking it out.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Prompt that trajectories run under (the prompt itself).")
    ] = None,
    context: Annotated[
        str, typer.Option(help="auto, prompt, bare, or a file of prompts with the concept.")
    ] = "auto",
    draws: Annotated[int, typer.Option(help="Trajectories per concept.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the picture and of the draws.")] = 0,
    top: Annotated[int, typer.Option(help="How many proponents and opponents.")] = 10,
    guidance: Annotated[float, typer.Option(help="Guidance scale of the query's picture.")] = 5.0,
    damping: Annotated[float, typer.Option(help="Of the kernel, in mean eigenvalues.")] = 0.1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the answer.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute the query's gradient again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this concept of the prompt?"""
    quiet_libraries()
    from headwater.answers import slug
    from headwater.index import Index

    if top < 1:
        raise ParameterError(f"--top {top} must be at least 1")
    opened = Index.open(index, device=device)
    folder = out or Path("headwater-answers") / f"{slug(prompt)}-{seed}"
    options = {"minus": minus, "base": base, "context": context, "draws": draws, "seed": seed}
    _answer(
        opened,
        prompt,
        concept,
        folder,
        guidance=guidance,
        damping=damping,
        top=top,
        fresh=fresh,
        as_json=as_json,
        **options,
    )


@app.command()
def info(
    index: Annotated[Path, typer.Argument(help="Folder of an index.")],
    as_json: Json = False,
) -> None:
    """What an index holds, what it was made of, and what it can answer."""
    from headwater import store
    from headwater.methods import served_by

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
            served_by(recipe["train_path"], recipe["train_delta"], recipe["normalise"])
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
    prompt: str,
    concepts: list[str] | tuple[str, ...],
    folder: Path,
    *,
    guidance: float,
    damping: float = 0.1,
    top: int = 10,
    fresh: bool = False,
    as_json: bool = False,
    **options: Any,
) -> None:
    """Ask for each concept, write the folder, print a table or JSON."""
    from headwater.answers import draw_query, write_answers
    from headwater.queries import Concept

    if options.get("minus") is not None and len(concepts) > 1:
        raise QueryError(
            "--minus is the prompt without one concept: ask for one --concept at a time"
        )
    queries = [Concept(prompt, concept=words, **options) for words in concepts]
    attributions = [
        index.attribute(query, damping=damping, fresh=fresh, note=say) for query in queries
    ]
    drawn = draw_query(index.denoiser, prompt, queries[0].seed, guidance)
    answer = write_answers(folder, attributions, drawn, top)
    if as_json:
        print(json.dumps(answer, ensure_ascii=False))
        return
    for attribution in attributions:
        print(table(attribution, top))
    print(f"\nReport: {folder / 'report.html'}")


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise ParameterError(f"--batch-size {text!r} must be a positive number or `auto`")
    return int(text)


if __name__ == "__main__":
    main()
