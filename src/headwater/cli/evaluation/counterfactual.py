"""`headwater evaluate counterfactual`, which trains models without the images a method names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli.evaluation.options import (
    Ask,
    Config,
    Data,
    Draws,
    Out,
    Parameters,
    Ratio,
    Seed,
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
    ClipFolder,
    Device,
    EngineName,
    ImageColumn,
    Jobs,
    Limit,
    Options,
    Split,
    with_options,
)
from headwater.errors import ParameterError, QueryError
from headwater.methods.table import DEFAULT_METHOD

if TYPE_CHECKING:
    from headwater.evaluation.counterfactual.plan import RemovalPlan
    from headwater.evaluation.ground_truth.concepts import Truth
    from headwater.models.clip import Clip


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
            f"`truth` those that show it. By default {DEFAULT_METHOD}, caption, random and, with "
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
    damping: Ratio = None,
    ask: Ask = None,
    parameters: Parameters = None,
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
    questions = questions_of(options)
    remove = _numbers("--remove", options["remove"])
    require_at_least(options, samples=1, seeds=1)
    from headwater.evaluation.counterfactual.plan import RemovalPlan
    from headwater.evaluation.counterfactual.regenerate import read_windows
    from headwater.evaluation.ground_truth.classifiers import classifier_for
    from headwater.evaluation.ground_truth.concepts import read_truths
    from headwater.evaluation.reporting.plots import require_matplotlib
    from headwater.evaluation.retraining.config import read_config
    from headwater.evaluation.studies.method_indexes import gradient_methods
    from headwater.runtime.executor import Executor
    from headwater.runtime.memory import usable_device

    require_matplotlib()
    executor = Executor(options["engine"], options["jobs"])
    config, device = read_config(options["config"]), str(usable_device(options["device"]))
    data, truth = data_of(options), options["truth"]
    truths = read_truths(truth, data.samples)
    methods, clip = _removing_methods(options, device)
    gradients = gradient_methods(methods)
    parameters = options["parameters"]
    refuse_ignored(parameters, gradients)
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
        executor=executor,
        device=device,
        recipes={name: {"parameters": parameters} for name in gradients if parameters},
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
    return methods or [DEFAULT_METHOD, *similar, CAPTION, "random"], clip


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
