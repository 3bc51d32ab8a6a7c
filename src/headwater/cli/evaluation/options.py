"""Options that the commands of `headwater evaluate` share, and what every result says of itself."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.options import Options, images_of, number_or_auto
from headwater.errors import ParameterError

if TYPE_CHECKING:
    from headwater.data.training_set import TrainingSet
    from headwater.evaluation.studies.method_scores import QuestionOptions

Truths = Annotated[
    str,
    typer.Argument(
        help="scenes, scenes:unseen, a JSON file of concepts; or presence, what the model itself "
        "sees (presence:red,blue,green)."
    ),
]
Out = Annotated[Path, typer.Argument(help="Folder for table.md, results.json and plots.")]
More = Annotated[
    list[Path] | None,
    typer.Option("--index", help="More indexes of the same images, for methods of other features."),
]
Methods = Annotated[
    str,
    typer.Option(
        help="Names with commas, or `all`. By default all that the indexes serve but those that "
        "look at every image anew (unlearning, mucs, nda, ...), and second names."
    ),
]
Draws = Annotated[str, typer.Option(help="Of each question, or `auto`.")]
Seed = Annotated[int, typer.Option(help="Of pictures and draws.")]
Context = Annotated[str, typer.Option(help="Of concepts: auto, prompt or bare.")]
Ask = Annotated[
    str | None,
    typer.Option(
        help="What is asked of a concept: slider, contribution or loss (on training images that "
        "name it), of methods that take it; by default what each method is for."
    ),
]
Top = Annotated[int, typer.Option(help="k of precision@k.")]
Config = Annotated[Path, typer.Argument(help="JSON file: how the models are made and trained.")]
Data = Annotated[str, typer.Argument(help="Images to train on, as `headwater index` takes them.")]
HeldOut = Annotated[int, typer.Option(help="Images taken out, to measure losses on.")]
Subsets = Annotated[int, typer.Option(help="Random halves, each trained once.")]
Again = Annotated[int, typer.Option(help="Halves trained with another seed too, for the ceiling.")]
Parameters = Annotated[
    str | None, typer.Option(help="What gradients are of, as `headwater index` takes it.")
]
Ratio = Annotated[
    float | None,
    typer.Option("--damping", help="In mean eigenvalues; by default each method's own."),
]

# The options that `images_of` takes, in its order.
OF_IMAGES = ("data", "split", "image_column", "caption_column", "limit")


def split_names(text: str) -> list[str]:
    """Names with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def require_at_least(options: Options, **fewest: int) -> None:
    """Refuse options that are below the fewest that there can be.

    Raises:
        ParameterError: names the first.
    """
    for option, number in fewest.items():
        if options[option] < number:
            raise ParameterError(f"--{option} {options[option]} must be at least {number}")


def data_of(options: Options) -> TrainingSet:
    """The images that a command trains on."""
    return images_of(*(options[name] for name in OF_IMAGES))


def questions_of(options: Options) -> QuestionOptions:
    """How questions are asked, from a command line."""
    draws = number_or_auto("--draws", options["draws"])
    from headwater.evaluation.studies.method_scores import QuestionOptions

    return QuestionOptions(
        draws, options["seed"], damping=options["damping"], ask=options.get("ask")
    )


def refuse_ignored(parameters: str | None, gradients: list[str]) -> None:
    """Refuse `--parameters` where no method takes gradients."""
    if parameters is not None and not gradients:
        raise ParameterError(
            "--parameters is of how gradients are made, and no method here makes any: leave it out"
        )


def about(kind: str, options: Options) -> dict[str, Any]:
    """What every result says of itself: the command as it was given, the date, the versions."""
    from headwater.evaluation.reporting.results import circumstances

    settings = {name: value for name, value in options.items() if name != "as_json"}
    return {
        "evaluation": kind,
        "command": shlex.join(["headwater", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": json.loads(json.dumps(settings, default=str)),
        **circumstances(),
    }
