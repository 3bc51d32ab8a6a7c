"""`headwater evaluate ...`: how far can an answer be trusted?"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.commands.options import Device, Guidance, IndexFolder, Json, number_or_auto
from headwater.errors import ParameterError
from headwater.terminal import quiet_libraries

app = typer.Typer(help="How far can an answer be trusted?", rich_markup_mode=None)

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


@app.command()
def isolation(
    index: IndexFolder,
    truth: Truths,
    out: Out,
    more: More = None,
    methods: Methods = "",
    draws: Draws = "32",
    top: Top = 10,
    seed: Seed = 0,
    guidance: Guidance = 5.0,
    context: Context = "auto",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Can a method tell which concept of a prompt was asked for?"""
    _evaluate("isolation", **locals())


@app.command()
def retrieval(
    index: IndexFolder,
    truth: Truths,
    out: Out,
    more: More = None,
    methods: Methods = "",
    draws: Draws = "32",
    top: Top = 10,
    seed: Seed = 0,
    guidance: Guidance = 5.0,
    context: Context = "auto",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Does a method find the images that show the concept?"""
    _evaluate("retrieval", **locals())


def _evaluate(
    kind: str,
    *,
    index: Path,
    truth: str,
    out: Path,
    more: list[Path] | None,
    methods: str,
    draws: str,
    top: int,
    seed: int,
    guidance: float,
    context: str,
    device: str | None,
    as_json: bool,
) -> None:
    """Ask, write, print the table or JSON."""
    given = locals().copy()  # the command line, before anything is made of it
    count = number_or_auto("--draws", draws)
    if top < 1:
        raise ParameterError(f"--top {top} must be at least 1")
    quiet_libraries()
    from headwater.evaluation import answers, plots, scoring
    from headwater.evaluation.results import markdown
    from headwater.evaluation.truth import read_truths

    plots.require_matplotlib()
    indexes = answers.open_all([index, *(more or ())], device)
    chosen = answers.serving(indexes, [name.strip() for name in methods.split(",") if name.strip()])
    found = read_truths(truth, indexes[0].samples)
    asking = answers.Asking(count, seed, guidance, context)
    rows, written = scoring.evaluate(kind, chosen, found, asking, out, about(kind, given), k=top)
    if as_json:
        print(json.dumps(written, ensure_ascii=False))
    else:
        print(markdown(rows), f"Results: {out / 'table.md'}", sep="\n")


def about(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What every result says of itself: the command as it was given, the date, the versions."""
    from headwater.evaluation.results import circumstances

    settings = {name: value for name, value in given.items() if name not in ("kind", "as_json")}
    return {
        "evaluation": kind,
        "command": shlex.join(["headwater", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": json.loads(json.dumps(settings, default=str)),
        **circumstances(),
    }
