"""`headwater concept`, `image` and `preference`: questions to an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.options import (
    DRAWS,
    GUIDANCE,
    Candidates,
    ClipFolder,
    Damping,
    Device,
    Fresh,
    Guidance,
    IndexFolder,
    Json,
    Method,
    Out,
    Seed,
    Top,
    asking,
    number_or_auto,
    opened,
)
from headwater.cli.output import answer, answer_journey, default_folder
from headwater.errors import QueryError
from headwater.runtime.console import quiet_libraries

if TYPE_CHECKING:
    from headwater.index.index import Index
    from headwater.queries.query import Question
    from headwater.queries.reward import Scorer


def concept(
    index: IndexFolder,
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
        str | None,
        typer.Option(
            help="The prompt without the concept, if not by taking it out; asks in this one prompt."
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Prompt that trajectories run under (the prompt itself).")
    ] = None,
    context: Annotated[
        str, typer.Option(help="auto, prompt, bare, or a file of prompts with the concept.")
    ] = "auto",
    draws: Annotated[str, typer.Option(help="Trajectories per concept, or `auto`.")] = str(DRAWS),
    seed: Seed = 0,
    top: Top = 10,
    guidance: Guidance = GUIDANCE,
    method: Method = None,
    damping: Damping = "0.1",
    candidates: Candidates = None,
    clip: ClipFolder = None,
    swap: Annotated[
        bool, typer.Option("--swap", help="Exchange c+ and c-: ask for the want of the concept.")
    ] = False,
    device: Device = None,
    out: Out = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this concept?

    It is asked for by words of a prompt, by a picture that shows it (--local), or by a score of
    pictures (--reward, --reward-text).
    """
    given = locals().copy()  # the command line, before anything is made of it
    options = asking(method, damping, candidates, fresh)
    count = number_or_auto("--draws", draws)
    ways = {"--concept": concept, "--reward": reward, "--reward-text": reward_text}
    asked = _only_one(ways if concept and local else ways | {"--local": local})
    if mask is not None and local is None:
        raise QueryError("--mask is a part of the picture of --local: give that too")
    if minus is not None and len(concept or ()) > 1:
        raise QueryError(
            "--minus is the prompt without one concept: ask for one --concept at a time"
        )
    of_words = {"--minus": minus is not None, "--base": base is not None, "--swap": swap}
    of_words |= {"--context": context != "auto"}
    if not concept:
        _refuse(of_words | {"--candidates": reward and candidates}, asked)
    if local is not None:
        _refuse({"--guidance": guidance != GUIDANCE}, "--local, which is a picture")
    quiet_libraries()
    from headwater.queries.concept import Concept
    from headwater.queries.local_concept import Local, whole_picture
    from headwater.queries.reward import Reward

    at = opened(index, device, clip)
    if asked == "--concept" and local is None:
        _refuse_of_similarity(at, method, of_words | {"--draws": count != DRAWS})
    concepts = [
        Concept(prompt, words, minus, base, context, count, seed, swap) for words in concept or ()
    ]
    queries: Sequence[Question] = concepts
    if local is not None:
        whole = whole_picture(prompt, local, mask=mask, draws=count, seed=seed)
        queries = [Local(each, local, mask) for each in concepts] or [whole]
    elif not concept:
        queries = [Reward(prompt, _scorer(at, reward, reward_text), count, seed)]
    folder = out or default_folder(queries, given)
    answer(at, queries, folder, guidance=guidance, top=top, as_json=as_json, **options)


def image(
    index: IndexFolder,
    file: Annotated[Path | None, typer.Argument(help="A picture file.", metavar="IMAGE")] = None,
    prompt: Annotated[str, typer.Option(help="Makes the picture; or says what it is of.")] = "",
    seed: Seed = 0,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A picture of the same size, white where it counts. Concept-TRAK asks what the "
            "prompt makes there; without a prompt, what the picture shows."
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="A timestep of the picture's making (999 to 19 by 20).")
    ] = None,
    journey: Annotated[
        bool, typer.Option("--journey", help="Every step of its making that the index has.")
    ] = False,
    draws: Annotated[str, typer.Option(help="Of noise, or `auto`.")] = str(DRAWS),
    judge: Annotated[
        str | None,
        typer.Option(help="module:function of pictures, what it sees of each feature (--journey)."),
    ] = None,
    top: Top = 10,
    guidance: Guidance = GUIDANCE,
    method: Method = None,
    damping: Damping = "0.1",
    candidates: Candidates = None,
    clip: ClipFolder = None,
    device: Device = None,
    out: Out = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this picture?

    Or a part of it (--mask), or a step of its making (--step), or each of the steps (--journey).
    """
    given = locals().copy()  # the command line, before anything is made of it
    options = asking(method, damping, candidates, fresh)
    count = number_or_auto("--draws", draws)
    if file is not None:
        _refuse({"--guidance": guidance != GUIDANCE}, "a picture that is given")
    if judge is not None and not journey:
        raise QueryError("--judge looks at every step of a picture's making: give --journey too")
    quiet_libraries()
    from headwater.queries.image import Image
    from headwater.runtime.plugins import function_named

    looks = None if judge is None else function_named("--judge", judge)[0]
    query = Image(prompt, file, mask, step, count, seed, guidance)
    at = opened(index, device, clip)
    folder = out or default_folder([query], given)
    if journey:
        answer_journey(at, query, folder, judge=looks, top=top, as_json=as_json, **options)
    else:
        answer(at, [query], folder, guidance=guidance, top=top, as_json=as_json, **options)


def preference(
    index: IndexFolder,
    pairs: Annotated[
        Path, typer.Argument(help="A folder with winners/ and losers/, or a parquet file.")
    ],
    draws: Annotated[str, typer.Option(help="Pairs to ask about; `auto` takes all.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the choice of pairs.")] = 0,
    top: Top = 10,
    method: Method = None,
    damping: Damping = "0.1",
    device: Device = None,
    out: Out = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this preference?

    It is what the better pictures of pairs have and the worse lack.
    """
    given = locals().copy()  # the command line, before anything is made of it
    options = asking(method, damping, None, fresh)
    count = number_or_auto("--draws", draws)
    quiet_libraries()
    from headwater.queries.preference import Preference, load_pairs

    query = Preference(load_pairs(pairs), count, seed)
    folder = out or default_folder([query], given)
    answer(opened(index, device), [query], folder, top=top, as_json=as_json, **options)


def _scorer(index: Index, reward: str | None, text: str | None) -> Scorer:
    from headwater.queries.reward import from_module, similarity_to

    return similarity_to(text or "", index.clip()) if reward is None else from_module(reward)


def _only_one(options: Mapping[str, Any]) -> str:
    """The one option of these that is given."""
    given = [name for name, value in options.items() if value]
    if not given:
        raise QueryError(f"nothing is asked for: give {' or '.join(options)}")
    if len(given) > 1:
        raise QueryError(f"{' and '.join(given)} are different questions: give one of them")
    return given[0]


def _refuse_of_similarity(index: Index, method: str | None, options: Mapping[str, Any]) -> None:
    """Refuse what is of trajectories, where words are compared with pictures and that is all."""
    from headwater.methods import choose

    chosen = choose(method, index.recipe.method, index.methods(), "concept")
    if chosen.train is not None and not chosen.train.gradient:
        _refuse(options, chosen.name)


def _refuse(options: Mapping[str, Any], asked: str) -> None:
    """Refuse what would be ignored."""
    for name, value in options.items():
        if value:
            raise QueryError(f"{name} does not go with {asked}: leave it out")
