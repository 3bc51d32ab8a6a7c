"""`headwater evaluate ...`: how far can an answer be trusted?

Commands that ask an index; those that train models are in `commands_studies`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.evaluate_options import (
    Context,
    Draws,
    Methods,
    More,
    Out,
    Seed,
    Top,
    Truths,
    about,
    at_least,
    listed,
)
from headwater.cli.evaluate_retraining import concept_lds, counterfactual, lds
from headwater.cli.options import Device, Guidance, IndexFolder, Json, number_or_auto
from headwater.runtime.console import json_line, quiet_libraries

app = typer.Typer(help="How far can an answer be trusted?", rich_markup_mode=None)


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
    at_least(given, top=1)
    quiet_libraries()
    from headwater.evaluation.ground_truth.concepts import read_truths
    from headwater.evaluation.reporting import plots
    from headwater.evaluation.reporting.results import markdown
    from headwater.evaluation.studies import method_scores, retrieval

    plots.require_matplotlib()
    indexes = method_scores.open_all([index, *(more or ())], device)
    chosen = method_scores.serving(indexes, listed(methods))
    found = read_truths(truth, indexes[0].samples)
    asking = method_scores.Asking(count, seed, guidance, context)
    rows, written = retrieval.evaluate(kind, chosen, found, asking, out, about(kind, given), k=top)
    if as_json:
        print(json_line(written))
    else:
        print(markdown(rows), f"Results: {out / 'table.md'}", sep="\n")


@app.command()
def journey(
    index: IndexFolder,
    out: Out,
    prompts: Annotated[
        Path | None, typer.Option(help="File of prompts, one a line; default: captions.")
    ] = None,
    count: Annotated[int, typer.Option(help="Captions drawn as prompts.")] = 10,
    seeds: Annotated[int, typer.Option(help="Pictures of each prompt.")] = 3,
    draws: Draws = "32",
    judge: Annotated[
        str, typer.Option(help="scenes, or module:function: pictures -> {feature: probabilities}.")
    ] = "",
    method: Annotated[str | None, typer.Option(help="One that takes journeys.")] = None,
    top: Annotated[int, typer.Option(help="How many are the top, or the bottom.")] = 10,
    seed: Seed = 0,
    guidance: Guidance = 5.0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """How do answers differ from step to step of a picture's making, and from seed to seed?"""
    given = locals().copy()
    at_least(given, top=1)
    quiet_libraries()
    from headwater.evaluation.ground_truth import classifiers
    from headwater.evaluation.reporting import plots
    from headwater.evaluation.reporting.results import markdown
    from headwater.evaluation.studies import trajectory
    from headwater.index.index import Index

    plots.require_matplotlib()
    opened = Index.open(index, device=device)
    asking = trajectory.Asking(number_or_auto("--draws", draws), seed, seeds, guidance, method)
    chosen = trajectory.prompts_of(opened, prompts, count, seed)
    reading = classifiers.judge_named(judge) if judge else None
    found = trajectory.journeys(opened, chosen, asking, reading)
    tables, written = trajectory.write(out, opened, found, about("journey", given), top)
    if as_json:
        print(json_line(written))
    else:
        print(*map(markdown, tables), f"Results: {out / 'table.md'}", sep="\n")


for command in (lds, concept_lds, counterfactual):
    app.command()(command)
