"""Options of the commands that ask a question, and which of them go together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.cli.options import GUIDANCE
from headwater.errors import QueryError
from headwater.features.spec import DRAWS
from headwater.queries.words.content import content_words
from headwater.queries.words.presets import PRESETS

Prompt = Annotated[
    str | None, typer.Argument(help="The prompt that holds the concept.", metavar="PROMPT")
]
Preset = Annotated[
    str | None,
    typer.Option(
        help=f"A case study of the Concept-TRAK paper, instead of PROMPT: {', '.join(PRESETS)}."
    ),
]
Concepts = Annotated[
    list[str] | None, typer.Option("--concept", help="Words of the prompt; may be repeated.")
]
Ask = Annotated[
    str | None,
    typer.Option(
        help="What is asked of --concept: slider (which way it lies), contribution (what its words "
        "gain) or loss; the last two on --pictures. By default what the method is for."
    ),
]
Pictures = Annotated[
    str | None,
    typer.Option(
        help="What contribution and loss are asked on: training (images that name the concept, "
        "none about itself), made (by the model), or a folder of pictures that show it, or a file "
        "of such as for `index`. By default training, or made where few name it.",
        metavar="training|made|FOLDER",
    ),
]
Feature = Annotated[
    Path | None,
    typer.Option(
        help="An .npy file, instead of PROMPT: a question's feature, such as the concept_grad.npy "
        "of the published Concept-TRAK code.",
        metavar="FILE",
    ),
]
Reward = Annotated[
    str | None,
    typer.Option(help="module:function of images, differentiable; instead of --concept."),
]
RewardText = Annotated[
    str | None,
    typer.Option(help="Words that pictures should look like, by --clip; instead of --concept."),
]
Local = Annotated[
    Path | None,
    typer.Option(
        help="A picture: ask for --concept as it shows it; without --concept, for all that it "
        "shows besides what the prompt (may be '') names.",
        metavar="IMAGE",
    ),
]
LocalMask = Annotated[
    Path | None,
    typer.Option("--mask", help="Of --local: a picture of its size, white where it counts."),
]
Minus = Annotated[
    str | None,
    typer.Option(
        help="The prompt without the concept, if not by taking it out; asks in this one prompt."
    ),
]
Anchor = Annotated[
    str,
    typer.Option(
        help="Words that stand in the concept's place in the prompt without it (shape for star); "
        "by default none.",
        show_default=False,
    ),
]
Base = Annotated[
    str | None, typer.Option(help="Prompt that trajectories run under (the prompt itself).")
]
Context = Annotated[
    str, typer.Option(help="auto, prompt, bare, or a file of prompts with the concept.")
]
Trajectories = Annotated[str, typer.Option("--draws", help="Trajectories per concept, or `auto`.")]
Swap = Annotated[
    bool, typer.Option("--swap", help="Exchange c+ and c-: ask for the want of the concept.")
]
Alternatives = Annotated[
    str | None,
    typer.Option(
        help="Of presence: what else could stand in the concept's place, with commas "
        "(red,blue,green), or `none`; default what captions have there."
    ),
]
PictureFile = Annotated[Path | None, typer.Argument(help="A picture file.", metavar="IMAGE")]
PicturePrompt = Annotated[
    str, typer.Option("--prompt", help="Makes the picture; or says what it is of.")
]
PictureMask = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        help="A picture of the same size, white where it counts. Concept-TRAK asks what the "
        "prompt makes there; without a prompt, what the picture shows.",
    ),
]
Step = Annotated[
    int | None, typer.Option(help="A timestep of the picture's making (999 to 19 by 20).")
]
Journey = Annotated[
    bool, typer.Option("--journey", help="Every step of its making that the index has.")
]
Along = Annotated[
    bool,
    typer.Option(
        "--journey",
        help="In the same report, each step of the making of the prompt's picture (index by "
        "--method trak).",
    ),
]
NoiseDraws = Annotated[str, typer.Option("--draws", help="Of noise, or `auto`.")]
Judge = Annotated[
    str | None,
    typer.Option(help="module:function of pictures, what it sees of each feature (--journey)."),
]
Groups = Annotated[
    str | None,
    typer.Option(
        help="Groups of training images: a .csv file of id,group, or words with commas, each the "
        "images whose caption names it (--method guda).",
        metavar="FILE|WORDS",
    ),
]
PairsFolder = Annotated[
    Path, typer.Argument(help="A folder with winners/ and losers/, or a parquet file.")
]
PairDraws = Annotated[str, typer.Option("--draws", help="Pairs to ask about; `auto` takes all.")]
PairSeed = Annotated[int, typer.Option("--seed", help="Of the choice of pairs.")]


def alternatives_in(text: str | None) -> tuple[str, ...] | None:
    """The values of --alternatives; () for `none`, None where nothing was said."""
    if text is None:
        return None
    return () if text == "none" else tuple(value.strip() for value in text.split(","))


# --- what goes together ---------------------------------------------------------------------------

OUTPUT_NAMES = ("contribution", "loss")


# What says how a slider's prompts are made.
_OF_SLIDERS = ("minus", "base", "swap")


def ask_of(given: Mapping[str, Any]) -> str | None:
    """What is asked of --concept, as far as the options tell; None where the method is to tell."""
    if given["ask"] is not None:
        return given["ask"]
    if not given["concept"] or given["local"] is not None:
        return "slider"
    if given["pictures"] is not None:
        return "contribution"
    return "slider" if any(given[name] not in (None, False) for name in _OF_SLIDERS) else None


def require_one_question(given: Mapping[str, Any]) -> None:
    """Refuse options of `concept` that ask several things, or that would be ignored.

    Raises:
        QueryError: names them.
    """
    words, local, reward = given["concept"], given["local"], given["reward"]
    ways = {"--concept": words, "--reward": reward, "--reward-text": given["reward_text"]}
    ways |= {"--preset": given["preset"], "--feature": given["feature"]}
    way = _only_one(ways if words and local else ways | {"--local": local}, given["prompt"])
    if way in ("--preset", "--feature"):
        refuse({"PROMPT": given["prompt"] is not None}, way)
    elif given["prompt"] is None:
        raise QueryError(f"{way} goes with a prompt: give PROMPT")
    if way == "--feature":
        made = {"--draws": given["draws"] != DRAWS, "--seed": given["seed"] != 0}
        refuse(made | {"--guidance": given["guidance"] != GUIDANCE}, way)
    if given["mask"] is not None and local is None:
        raise QueryError("--mask is a part of the picture of --local: give that too")
    if given["minus"] is not None and len(words or ()) > 1:
        raise QueryError(
            "--minus is the prompt without one concept: ask for one --concept at a time"
        )
    _require_output(given, way)
    if not words:
        refuse(of_words(given) | {"--candidates": reward and given["candidates"]}, way)
    if local is not None:
        drawn = {"--guidance": given["guidance"] != GUIDANCE}
        words_alone = {"--alternatives": given["alternatives"] is not None}
        refuse(drawn | words_alone, "--local, which is a picture")


def _require_output(given: Mapping[str, Any], way: str) -> None:
    """Refuse what does not go with questions about outputs, or with others.

    Raises:
        QueryError: names it, or there is no such output.
    """
    ask = given["ask"]
    if ask is None:  # nothing is given that only one of them takes
        return
    if ask not in OUTPUT_NAMES and ask != "slider":
        raise QueryError(f"--ask {ask!r} is not one of slider, {', '.join(OUTPUT_NAMES)}")
    if ask == "slider":
        what = "--ask slider" if way == "--concept" else way
        refuse({"--pictures": given["pictures"] is not None}, what)
        return
    asked = f"--ask {ask}"
    if way != "--concept":
        raise QueryError(f"{asked} is of words of a prompt: give --concept")
    refuse({f"--{name}": given[name] not in (None, False) for name in _OF_SLIDERS}, asked)
    refuse({"--local": given["local"] is not None}, asked)


def _only_one(options: Mapping[str, Any], prompt: str | None) -> str:
    """The one option of these that is given; a refusal says what the prompt names."""
    given = [name for name, value in options.items() if value]
    if not given:
        named = ", ".join(map(repr, content_words(prompt or "")))
        hint = f"; the prompt names {named}" if named else ""
        raise QueryError(f"nothing is asked for: give {' or '.join(options)}{hint}")
    if len(given) > 1:
        raise QueryError(f"{' and '.join(given)} are different questions: give one of them")
    return given[0]


def of_words(given: Mapping[str, Any]) -> dict[str, bool]:
    """Options of how prompts are compared, and whether each is given."""
    return {
        "--minus": given["minus"] is not None,
        "--anchor": bool(given["anchor"]),
        "--base": given["base"] is not None,
        "--swap": given["swap"],
        "--context": given["context"] != "auto",
        "--alternatives": given["alternatives"] is not None,
    }


def refuse(options: Mapping[str, Any], by: str) -> None:
    """Refuse what would be ignored."""
    for name, value in options.items():
        if value:
            raise QueryError(f"{name} does not go with {by}: leave it out")
