"""Commands of `headwater evaluate` that train models, and go on where they were stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.evaluate_options import (
    Again,
    Config,
    Data,
    Draws,
    HeldOut,
    Options,
    Out,
    Parameters,
    Ratio,
    Seed,
    Subsets,
    Truths,
    about,
    require_at_least,
    split_names,
    with_options,
)
from headwater.cli.options import (
    CaptionColumn,
    ClipFolder,
    Device,
    EngineName,
    ImageColumn,
    Jobs,
    Limit,
    Split,
    images_of,
    number_or_auto,
)
from headwater.errors import ParameterError, QueryError
from headwater.runtime.console import quiet_libraries

if TYPE_CHECKING:
    from headwater.evaluation.counterfactual.plan import RemovalPlan
    from headwater.evaluation.ground_truth.concepts import Truth
    from headwater.evaluation.studies.lds import LDSStudy, Table
    from headwater.evaluation.studies.method_scores import QuestionOptions
    from headwater.models.clip import Clip


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
    damping: Ratio = 0.1,
    parameters: Parameters = "attn2",
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
    ] = "concept-trak,trak,d-trak,random",
    held_out: HeldOut = 200,
    subsets: Subsets = 16,
    again: Again = 8,
    split: Split = "train",
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    limit: Limit = None,
    draws: Draws = "32",
    damping: Ratio = 0.1,
    parameters: Parameters = "attn2",
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
    questions = _questions(options)
    _require_halves(options)
    names = split_names(options["methods"])
    if not names:
        raise ParameterError("--methods names none: give names with commas")
    quiet_libraries()
    from headwater.evaluation.reporting.plots import require_matplotlib
    from headwater.evaluation.retraining.config import read_config
    from headwater.evaluation.studies.lds import LDSStudy, hold_out
    from headwater.evaluation.studies.method_indexes import gradient_methods
    from headwater.evaluation.studies.subset_plan import SubsetPlan
    from headwater.runtime.executor import Engine
    from headwater.runtime.memory import usable_device

    require_matplotlib()
    engine = Engine(options["engine"], options["jobs"])
    seed, subsets = options["seed"], options["subsets"]
    trained, held = hold_out(images_of(options), options["held_out"], seed)
    plan = SubsetPlan(len(trained), subsets, min(options["again"], subsets), seed)
    device = str(usable_device(options["device"]))
    config = read_config(options["config"])
    parameters = options["parameters"]
    _refuse_ignored(parameters, gradient_methods(names))
    study = LDSStudy(options["out"], config, trained, held, plan, engine, device, parameters)
    return study, names, questions


def _require_halves(options: Options) -> None:
    """Refuse so few halves that nothing can be said of them."""
    require_at_least(options, subsets=FEWEST, again=0)
    if 0 < options["again"] < FEWEST:
        raise ParameterError(
            f"--again {options['again']}: so few say nothing of noise; give 0, or at least {FEWEST}"
        )


def _refuse_ignored(parameters: str, gradients: list[str]) -> None:
    """Refuse `--parameters` where no method takes gradients."""
    from headwater.index.config import DEFAULT_PARAMETERS

    if parameters != DEFAULT_PARAMETERS and not gradients:
        raise ParameterError(
            "--parameters is of how gradients are made, and no method here makes any: leave it out"
        )


def _questions(options: Options) -> QuestionOptions:
    """How questions are asked, from a command line."""
    draws = number_or_auto("--draws", options["draws"])
    from headwater.evaluation.studies.method_scores import QuestionOptions

    return QuestionOptions(draws, options["seed"], damping=options["damping"])


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


# --- counterfactual -------------------------------------------------------------------------------


@with_options
def counterfactual(
    options: Options,
    config: Config,
    data: Data,
    truth: Truths,
    out: Out,
    methods: Annotated[
        str,
        typer.Option(
            help="Names with commas; `caption` takes out images whose caption names the concept, "
            "`truth` those that show it. By default concept-trak, caption, random and, with "
            "--clip, clip-cosine."
        ),
    ] = "",
    concepts: Annotated[str, typer.Option(help="Of the truth, with commas; default all.")] = "",
    remove: Annotated[str, typer.Option(help="How many images, with commas.")] = "25,50,100,200",
    samples: Annotated[int, typer.Option(help="Prompts that name the concept.")] = 64,
    seeds: Annotated[int, typer.Option(help="Models trained for each removal.")] = 1,
    clip: ClipFolder = None,
    window: Annotated[
        str | None,
        typer.Option(
            help="A:B swaps retrained models into the full one too, for timesteps A >= t > B; "
            "several with commas, all at once: models are not kept."
        ),
    ] = None,
    split: Split = "train",
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    limit: Limit = None,
    draws: Draws = "32",
    damping: Ratio = 0.1,
    parameters: Parameters = "attn2",
    seed: Seed = 0,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    device: Device = None,
) -> None:
    """Does a model forget the concept without the images that a method names?"""
    plan = _removal_plan(options)
    from headwater.evaluation.counterfactual.report import write_report
    from headwater.evaluation.counterfactual.study import run_counterfactual
    from headwater.evaluation.reporting.results import markdown

    stated = about("counterfactual", options)
    rows, _ = write_report(plan, run_counterfactual(plan), stated)
    print(markdown(rows), f"Results: {out / 'table.md'}", sep="\n")


def _removal_plan(options: Options) -> RemovalPlan:
    """What `counterfactual` needs, from its command line."""
    questions = _questions(options)
    remove = _numbers("--remove", options["remove"])
    require_at_least(options, samples=1, seeds=1)
    quiet_libraries()
    from headwater.evaluation.counterfactual.plan import RemovalPlan
    from headwater.evaluation.counterfactual.regenerate import read_windows
    from headwater.evaluation.ground_truth.classifiers import classifier_for
    from headwater.evaluation.ground_truth.concepts import read_truths
    from headwater.evaluation.reporting.plots import require_matplotlib
    from headwater.evaluation.retraining.config import read_config
    from headwater.evaluation.studies.method_indexes import gradient_methods
    from headwater.runtime.executor import Engine
    from headwater.runtime.memory import usable_device

    require_matplotlib()
    engine = Engine(options["engine"], options["jobs"])
    config, device = read_config(options["config"]), str(usable_device(options["device"]))
    data, truth = images_of(options), options["truth"]
    truths = read_truths(truth, data.samples)
    methods, clip = _removing_methods(options, device)
    gradients = gradient_methods(methods)
    _refuse_ignored(options["parameters"], gradients)
    return RemovalPlan(
        out=options["out"],
        config=config,
        data=data,
        truths=_choose_truths(truths, split_names(options["concepts"]), truth),
        classifier=classifier_for(truth, [t.concept for t in truths], clip, device),
        methods=methods,
        remove=remove,
        samples=options["samples"],
        seeds=options["seeds"],
        options=questions,
        clip=clip,
        windows=[] if options["window"] is None else read_windows(options["window"]),
        engine=engine,
        device=device,
        parameters=dict.fromkeys(gradients, str(options["parameters"])),
    )


def _removing_methods(options: Options, device: str) -> tuple[list[str], Clip | None]:
    """What names the images that are taken out, and the CLIP model of --clip.

    Raises:
        ParameterError: nothing here needs the CLIP model.
    """
    from headwater.evaluation.ground_truth.classifiers import is_of_scenes
    from headwater.evaluation.ground_truth.oracles import CAPTION
    from headwater.evaluation.studies.method_indexes import clip_methods
    from headwater.models.clip import Clip

    methods, folder = split_names(options["methods"]), options["clip"]
    judged_by_clip = not is_of_scenes(options["truth"])
    if folder is not None and methods and not (judged_by_clip or clip_methods(methods)):
        raise ParameterError("--clip: neither the judge nor a method here needs it: leave it out")
    clip = None if folder is None else Clip(folder, device)
    similar = [] if clip is None else ["clip-cosine"]
    return methods or ["concept-trak", *similar, CAPTION, "random"], clip


def _numbers(option: str, text: str) -> list[int]:
    """Numbers from 1 up, with commas; each once, the smallest first."""
    parts = split_names(text)
    if not parts or not all(part.isdecimal() and int(part) for part in parts):
        raise ParameterError(f"{option} {text!r} must be numbers from 1 up, with commas")
    return sorted({int(part) for part in parts})


def _choose_truths(truths: list[Truth], concepts: list[str], source: str) -> list[Truth]:
    """The truths of these concepts; of none, all."""
    by_concept = {truth.concept: truth for truth in truths}
    for concept in concepts:
        if concept not in by_concept:
            raise QueryError(
                f"--concepts: {source} has no {concept!r} to ask for; it has "
                f"{', '.join(by_concept)}"
            )
    return [by_concept[concept] for concept in dict.fromkeys(concepts)] or truths
