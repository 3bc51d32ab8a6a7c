"""Options that the commands of `headwater evaluate` share, and what every result says of itself."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.errors import ParameterError

Truths = Annotated[str, typer.Argument(help="scenes, scenes:unseen, or a JSON file of concepts.")]
Out = Annotated[Path, typer.Argument(help="Folder for table.md, results.json and plots.")]
More = Annotated[
    list[Path] | None,
    typer.Option("--index", help="More indexes of the same images, for methods of other features."),
]
Methods = Annotated[
    str,
    typer.Option(
        help="Names with commas, or `all`. By default all that the indexes serve but `unlearning`, "
        "which is slow, and second names."
    ),
]
Draws = Annotated[str, typer.Option(help="Of each question, or `auto`.")]
Seed = Annotated[int, typer.Option(help="Of pictures and draws.")]
Context = Annotated[str, typer.Option(help="Of concepts: auto, prompt or bare.")]
Top = Annotated[int, typer.Option(help="k of precision@k.")]
Config = Annotated[Path, typer.Argument(help="JSON file: how the models are made and trained.")]
Data = Annotated[str, typer.Argument(help="Images to train on, as `headwater index` takes them.")]
HeldOut = Annotated[int, typer.Option(help="Images taken out, to measure losses on.")]
Subsets = Annotated[int, typer.Option(help="Random halves, each trained once.")]
Again = Annotated[int, typer.Option(help="Halves trained with another seed too, for the ceiling.")]
Parameters = Annotated[
    str | None, typer.Option(help="What gradients are of, as `headwater index` takes it.")
]
Ratio = Annotated[float, typer.Option("--damping", help="Of the kernel, in mean eigenvalues.")]


def listed(text: str) -> list[str]:
    """Names with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def at_least(given: Mapping[str, Any], **fewest: int) -> None:
    """Refuse options that are below the fewest that there can be.

    Raises:
        ParameterError: names the first.
    """
    for option, number in fewest.items():
        if given[option] < number:
            raise ParameterError(f"--{option} {given[option]} must be at least {number}")


def about(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What every result says of itself: the command as it was given, the date, the versions."""
    from headwater.evaluation.reporting.results import circumstances

    settings = {name: value for name, value in given.items() if name not in ("kind", "as_json")}
    return {
        "evaluation": kind,
        "command": shlex.join(["headwater", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": json.loads(json.dumps(settings, default=str)),
        **circumstances(),
    }
