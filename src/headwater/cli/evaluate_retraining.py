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
    Out,
    Parameters,
    Ratio,
    Seed,
    Subsets,
    Truths,
    about,
    at_least,
    listed,
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
    from headwater.evaluation.counterfactual.plan import Setting as Removals
    from headwater.evaluation.studies.lds import Setting, Table
    from headwater.evaluation.studies.method_scores import Asking


OF_IMAGES = ("data", "split", "image_column", "caption_column", "limit")
FEWEST = 4  # halves that a rank correlation can say anything of


def lds(
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
    parameters: Parameters = None,
    seed: Seed = 0,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    device: Device = None,
) -> None:
    """Do scores of pictures predict losses of models that half of the images are kept from?"""
    given = locals().copy()
    setting, names, asking = _study(given)
    from headwater.evaluation.studies.lds import lds_of_pictures

    table = lds_of_pictures(setting, names, asking)
    title = f"LDS: {held_out} pictures, {subsets} halves of {len(setting.trained)} images"
    _write(setting, out, title, about("lds", given), table)


def concept_lds(
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
    parameters: Parameters = None,
    seed: Seed = 0,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    device: Device = None,
) -> None:
    """Do scores of concepts predict how much of them models of half of the images learn?"""
    given = locals().copy()
    setting, names, asking = _study(given)
    from headwater.evaluation.studies.lds import lds_of_concepts

    for output, table in lds_of_concepts(setting, names, truth, asking).items():
        title = f"Concept LDS, output {output}: {subsets} halves of {len(setting.trained)} images"
        _write(setting, out / output, title, about("concept-lds", given), table)


def _study(given: Mapping[str, Any]) -> tuple[Setting, list[str], Asking]:
    """What a study of halves needs, from its command line."""
    asking = _asking(given)
    at_least(given, subsets=FEWEST, again=0)
    if 0 < given["again"] < FEWEST:
        raise ParameterError(
            f"--again {given['again']}: so few say nothing of noise; give 0, or at least {FEWEST}"
        )
    names = listed(given["methods"])
    if not names:
        raise ParameterError("--methods names none: give names with commas")
    quiet_libraries()
    from headwater.evaluation.reporting.plots import require_matplotlib
    from headwater.evaluation.retraining.config import read_config
    from headwater.evaluation.studies.lds import Setting, split
    from headwater.evaluation.studies.method_indexes import of_gradients
    from headwater.evaluation.studies.subset_plan import Plan
    from headwater.runtime.executor import Engine
    from headwater.runtime.memory import usable_device

    require_matplotlib()
    engine = Engine(given["engine"], given["jobs"])
    images = images_of(*(given[name] for name in OF_IMAGES))
    trained, held = split(images, given["held_out"], given["seed"])
    plan = Plan(
        len(trained), given["subsets"], min(given["again"], given["subsets"]), given["seed"]
    )
    device = str(usable_device(given["device"]))
    config = read_config(given["config"])
    parameters = given["parameters"]
    _refuse_ignored(parameters, of_gradients(names))
    setting = Setting(given["out"], config, trained, held, plan, engine, device, parameters)
    return setting, names, asking


def _refuse_ignored(parameters: str | None, gradients: list[str]) -> None:
    """Refuse `--parameters` where no method takes gradients."""
    if parameters is not None and not gradients:
        raise ParameterError(
            "--parameters is of how gradients are made, and no method here makes any: leave it out"
        )


def _asking(given: Mapping[str, Any]) -> Asking:
    """How questions are asked, from a command line."""
    draws = number_or_auto("--draws", given["draws"])
    from headwater.evaluation.studies.method_scores import Asking

    return Asking(draws, given["seed"], damping=given["damping"])


def _write(setting: Setting, out: Path, title: str, about: Mapping[str, Any], table: Table) -> None:
    from headwater.evaluation.reporting.plots import bars
    from headwater.evaluation.reporting.results import markdown, write_results
    from headwater.evaluation.retraining.retrain import devices

    rows, values = table
    notes = [*NOTES, *devices(setting.out, setting.plan.tasks())]
    write_results(out, title, about, rows, notes, values=values)
    bars(out / "lds.png", rows, "LDS", title=title)
    print(markdown(rows), f"Results: {out / 'table.md'}", sep="\n")


NOTES = (
    "LDS: Spearman correlation, over the halves, of a model's output with minus the sum of the "
    "scores of what it saw; mean over queries",
    "noise ceiling: what a perfect prediction would reach, from halves trained with two seeds",
    "intervals: 95%, bootstrap over the halves",
)


# --- counterfactual -------------------------------------------------------------------------------


def counterfactual(
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
    parameters: Parameters = None,
    seed: Seed = 0,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    device: Device = None,
) -> None:
    """Does a model forget the concept without the images that a method names?"""
    given = locals().copy()
    setting = _removals(given)
    from headwater.evaluation.counterfactual.report import write
    from headwater.evaluation.counterfactual.study import outcomes
    from headwater.evaluation.reporting.results import markdown

    rows, _ = write(setting, outcomes(setting), about("counterfactual", given))
    print(markdown(rows), f"Results: {out / 'table.md'}", sep="\n")


def _removals(given: Mapping[str, Any]) -> Removals:
    """What `counterfactual` needs, from its command line."""
    asking = _asking(given)
    remove = _numbers("--remove", given["remove"])
    at_least(given, samples=1, seeds=1)
    quiet_libraries()
    from headwater.evaluation.counterfactual.plan import Setting
    from headwater.evaluation.counterfactual.regenerate import read_windows
    from headwater.evaluation.ground_truth.classifiers import judge_of
    from headwater.evaluation.ground_truth.concepts import read_truths
    from headwater.evaluation.ground_truth.oracles import CAPTION
    from headwater.evaluation.reporting.plots import require_matplotlib
    from headwater.evaluation.retraining.config import read_config
    from headwater.evaluation.studies.method_indexes import by_clip, of_gradients
    from headwater.models.clip import Clip
    from headwater.runtime.executor import Engine
    from headwater.runtime.memory import usable_device

    require_matplotlib()
    engine = Engine(given["engine"], given["jobs"])
    config, device = read_config(given["config"]), str(usable_device(given["device"]))
    data = images_of(*(given[name] for name in OF_IMAGES))
    truths = read_truths(given["truth"], data.samples)
    methods = listed(given["methods"])
    judged_by_clip = given["truth"].partition(":")[0] != "scenes"
    if given["clip"] is not None and methods and not (judged_by_clip or by_clip(methods)):
        raise ParameterError("--clip: neither the judge nor a method here needs it: leave it out")
    clip = None if given["clip"] is None else Clip(given["clip"], device)
    similar = [] if clip is None else ["clip-cosine"]
    methods = methods or ["concept-trak", *similar, CAPTION, "random"]
    gradients, parameters = of_gradients(methods), given["parameters"]
    _refuse_ignored(parameters, gradients)
    return Setting(
        given["out"],
        config,
        data,
        _chosen(truths, listed(given["concepts"]), given["truth"]),
        judge_of(given["truth"], [each.concept for each in truths], clip, device),
        methods,
        remove,
        given["samples"],
        given["seeds"],
        asking,
        clip,
        [] if given["window"] is None else read_windows(given["window"]),
        engine,
        device,
        {} if parameters is None else dict.fromkeys(gradients, parameters),
    )


def _numbers(option: str, text: str) -> list[int]:
    """Numbers from 1 up, with commas; each once, the smallest first."""
    parts = listed(text)
    if not parts or not all(part.isdecimal() and int(part) for part in parts):
        raise ParameterError(f"{option} {text!r} must be numbers from 1 up, with commas")
    return sorted({int(part) for part in parts})


def _chosen(truths: list[Any], concepts: list[str], source: str) -> list[Any]:
    """The truths of these concepts; of none, all."""
    there = {truth.concept: truth for truth in truths}
    for concept in concepts:
        if concept not in there:
            raise QueryError(
                f"--concepts: {source} has no {concept!r} to ask for; it has {', '.join(there)}"
            )
    return [there[concept] for concept in dict.fromkeys(concepts)] or truths
