"""`headwater evaluate lds` and `concept-lds`, which train models of halves of the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.evaluation.options import (
    Again,
    Ask,
    Config,
    Data,
    Draws,
    HeldOut,
    Out,
    Parameters,
    Ratio,
    Seed,
    Subsets,
    Truths,
    about,
    data_of,
    questions_of,
    refuse_ignored,
    require_at_least,
    split_names,
)
from headwater.cli.options import (
    CaptionColumn,
    Device,
    EngineName,
    ImageColumn,
    Jobs,
    Limit,
    Options,
    Split,
    with_options,
)
from headwater.errors import ParameterError
from headwater.methods.table import DEFAULT_METHOD

if TYPE_CHECKING:
    from headwater.evaluation.studies.lds import LDSStudy, Table
    from headwater.evaluation.studies.method_scores import QuestionOptions


FEWEST = 4  # halves that a rank correlation can say anything of


@with_options
def lds(
    options: Options,
    config: Config,
    data: Data,
    out: Out,
    methods: Annotated[str, typer.Option(help="Names with commas.")] = "trak,d-trak,das,random",
    held_out: HeldOut = 100,
    subsets: Subsets = 16,
    again: Again = 8,
    split: Split = "train",
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    limit: Limit = None,
    draws: Draws = "32",
    damping: Ratio = None,
    parameters: Parameters = None,
    seed: Seed = 0,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    device: Device = None,
) -> None:
    """Do scores of pictures predict losses of models that half of the images are kept from?"""
    study, names, questions = _study(options)
    from headwater.evaluation.studies.lds import lds_of_pictures

    table = lds_of_pictures(study, names, questions)
    title = f"LDS: {held_out} pictures, {subsets} halves of {len(study.trained)} images"
    _write(study, out, title, about("lds", options), table)


@with_options
def concept_lds(
    options: Options,
    config: Config,
    data: Data,
    truth: Truths,
    out: Out,
    methods: Annotated[
        str, typer.Option(help="Names with commas.")
    ] = f"{DEFAULT_METHOD},trak,d-trak,random",
    held_out: HeldOut = 200,
    subsets: Subsets = 16,
    again: Again = 8,
    split: Split = "train",
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    limit: Limit = None,
    draws: Draws = "32",
    damping: Ratio = None,
    ask: Ask = None,
    parameters: Parameters = None,
    seed: Seed = 0,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    device: Device = None,
) -> None:
    """Do scores of concepts predict how much of them models of half of the images learn?"""
    study, names, questions = _study(options)
    from headwater.evaluation.studies.lds import lds_of_concepts

    stated = about("concept-lds", options)
    for output, table in lds_of_concepts(study, names, truth, questions).items():
        title = f"Concept LDS, output {output}: {subsets} halves of {len(study.trained)} images"
        _write(study, out / output, title, stated, table)


def _study(options: Options) -> tuple[LDSStudy, list[str], QuestionOptions]:
    """What a study of halves needs, from its command line."""
    questions = questions_of(options)
    _require_halves(options)
    names = split_names(options["methods"])
    if not names:
        raise ParameterError("--methods names none: give names with commas")
    from headwater.evaluation.reporting.plots import require_matplotlib
    from headwater.evaluation.retraining.config import read_config
    from headwater.evaluation.studies.lds import LDSStudy, hold_out
    from headwater.evaluation.studies.method_indexes import gradient_methods
    from headwater.evaluation.studies.subset_plan import SubsetPlan
    from headwater.runtime.executor import Executor
    from headwater.runtime.memory import usable_device

    require_matplotlib()
    executor = Executor(options["engine"], options["jobs"])
    seed, subsets = options["seed"], options["subsets"]
    trained, held = hold_out(data_of(options), options["held_out"], seed)
    plan = SubsetPlan(len(trained), subsets, min(options["again"], subsets), seed)
    device = str(usable_device(options["device"]))
    config = read_config(options["config"])
    parameters = options["parameters"]
    refuse_ignored(parameters, gradient_methods(names))
    study = LDSStudy(options["out"], config, trained, held, plan, executor, device, parameters)
    return study, names, questions


def _require_halves(options: Options) -> None:
    """Refuse so few halves that nothing can be said of them."""
    require_at_least(options, subsets=FEWEST, again=0)
    if 0 < options["again"] < FEWEST:
        raise ParameterError(
            f"--again {options['again']}: so few say nothing of noise; give 0, or at least {FEWEST}"
        )


def _write(study: LDSStudy, out: Path, title: str, about: Mapping[str, Any], table: Table) -> None:
    from headwater.evaluation.reporting.plots import plot_bars
    from headwater.evaluation.reporting.results import markdown, write_results
    from headwater.evaluation.retraining.retrain import device_notes

    rows, values = table
    notes = [*NOTES, *device_notes(study.out, study.plan.tasks())]
    write_results(out, title, about, rows, notes, values=values)
    plot_bars(out / "lds.png", rows, "LDS", title=title)
    print(markdown(rows), f"Results: {out / 'table.md'}", sep="\n")


NOTES = (
    "LDS: Spearman correlation, over the halves, of a model's output with minus the sum of the "
    "scores of what it saw; mean over queries",
    "noise ceiling: what a perfect prediction would reach, from halves trained with two seeds",
    "intervals: 95%, bootstrap over the halves",
)
