"""`headwater evaluate ...`: how far can an answer be trusted?

Commands that ask an index; those that train models are in `evaluate_retraining`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.evaluation.counterfactual import counterfactual
from headwater.cli.evaluation.options import (
    Ask,
    Context,
    Draws,
    Methods,
    More,
    Out,
    Seed,
    Top,
    Truths,
    about,
    require_at_least,
    split_names,
)
from headwater.cli.evaluation.retraining import concept_lds, lds
from headwater.cli.options import (
    Device,
    Guidance,
    IndexFolder,
    Json,
    Options,
    number_or_auto,
    with_options,
)
from headwater.runtime.console import json_line

if TYPE_CHECKING:
    from headwater.evaluation.ground_truth.concepts import Truth
    from headwater.index.index import Index

app = typer.Typer(help="How far can an answer be trusted?", rich_markup_mode=None)


@app.command()
@with_options
def isolation(
    options: Options,
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
    ask: Ask = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Can a method tell which concept of a prompt was asked for?"""
    _evaluate("isolation", options)


@app.command()
@with_options
def retrieval(
    options: Options,
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
    ask: Ask = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Does a method find the images that show the concept?"""
    _evaluate("retrieval", options)


def _evaluate(kind: str, options: Options) -> None:
    """Ask, write, print the table or JSON."""
    draws = number_or_auto("--draws", options["draws"])
    require_at_least(options, top=1)
    from headwater.evaluation.reporting.plots import require_matplotlib
    from headwater.evaluation.studies.method_scores import (
        QuestionOptions,
        open_indexes,
        select_methods,
    )
    from headwater.evaluation.studies.retrieval import Evaluation, evaluate

    require_matplotlib()
    indexes = open_indexes([options["index"], *(options["more"] or ())], options["device"])
    methods = select_methods(indexes, split_names(options["methods"]), options["ask"])
    truths = _truths(options["truth"], indexes[0])
    questions = QuestionOptions(
        draws, options["seed"], options["guidance"], options["context"], ask=options["ask"]
    )
    rows, written = evaluate(
        Evaluation(kind, options["top"]),
        methods,
        truths,
        questions,
        options["out"],
        about(kind, options),
    )
    _print_results([rows], written, options)


def _truths(source: str, index: Index) -> list[Truth]:
    """As --truth has them: of people, or what the model itself sees."""
    from headwater.attribution.session import Session
    from headwater.evaluation.ground_truth.concepts import read_truths
    from headwater.evaluation.ground_truth.presence import is_of_presence, presence_truths

    if is_of_presence(source):
        return presence_truths(Session(index), source)
    return read_truths(source, index.samples)


def _print_results(
    tables: Sequence[Sequence[Mapping[str, Any]]], written: Mapping[str, Any], options: Options
) -> None:
    """Tables and where they lie, or with --json what was written."""
    from headwater.evaluation.reporting.results import markdown

    if options["as_json"]:
        print(json_line(written))
    else:
        print(*map(markdown, tables), f"Results: {options['out'] / 'table.md'}", sep="\n")


@app.command()
@with_options
def journey(
    options: Options,
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
    require_at_least(options, top=1)
    from headwater.attribution.session import Session
    from headwater.evaluation.ground_truth.classifiers import reader_named
    from headwater.evaluation.reporting.plots import require_matplotlib
    from headwater.evaluation.studies import trajectory

    require_matplotlib()
    session = Session.open(index, device=device)
    number = number_or_auto("--draws", draws)
    asked = trajectory.TrajectoryOptions(number, seed, seeds, guidance, method)
    chosen = trajectory.choose_prompts(session, prompts, count, seed)
    reader_of = reader_named(judge) if judge else None
    journeys = trajectory.collect_journeys(session, chosen, asked, reader_of)
    stated = about("journey", options)
    tables, written = trajectory.write_journeys(out, session.index, journeys, stated, top)
    _print_results(tables, written, options)


for command in (lds, concept_lds, counterfactual):
    app.command()(command)
