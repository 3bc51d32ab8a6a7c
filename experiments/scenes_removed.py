"""The scenes without images that methods name: the stages of `scenes.py` that take images out."""

from __future__ import annotations

import argparse
from typing import Any

from common import about, executor_of, kept_clip
from scenes_sizes import config_of, data_of, folder

from headwater.evaluation.counterfactual.plan import RemovalPlan
from headwater.evaluation.counterfactual.regenerate import Window
from headwater.evaluation.counterfactual.report import write_report
from headwater.evaluation.counterfactual.study import run_counterfactual
from headwater.evaluation.ground_truth.classifiers import classifier_for
from headwater.evaluation.ground_truth.concepts import read_truths
from headwater.evaluation.ground_truth.oracles import CAPTION, TRUTH
from headwater.evaluation.reporting.results import markdown
from headwater.evaluation.retraining import scene_outputs
from headwater.evaluation.retraining.clip import scene_captions
from headwater.evaluation.retraining.retrain import Measured
from headwater.evaluation.studies.method_scores import QuestionOptions
from headwater.methods.table import DEFAULT_METHOD
from headwater.scenes.vocabulary import ATTRIBUTES

# Stages that take images out, and how many.
REMOVING = {
    "removed": (25, 50, 100, 200),
    "confirmed": (100,),
    "together": (100,),
    "ceiling": (200,),
    "windows": (100,),
    "influence": (200,),
}
TAKEN_OUT_BY = ("concept-trak-unguided", "concept-d-trak", "clip-cosine", CAPTION, "random")
# What else a stage takes out by.
OTHERWISE = {
    "ceiling": (CAPTION, TRUTH),
    "windows": (CAPTION, "random"),
    "influence": (DEFAULT_METHOD, CAPTION, TRUTH),
}
# Indexes of influence are built, and asked, as where nothing else is said.
RECIPES: dict[str, dict[str, Any]] = {
    "concept-d-trak": {"parameters": "all"},  # by which it predicted best in the first halves
}
WINDOWS = (Window(999, 749), Window(749, 499), Window(499, 249), Window(249, 0))


def removed(full: bool, measured: Measured, given: argparse.Namespace) -> None:
    """Train without the images that methods name for a concept; is it gone from the pictures?

    In the stage `windows`: from those that such a model makes a quarter of.
    """
    data, out, swapped = data_of(full), folder(full) / given.stage, given.stage == "windows"
    own = out / "chosen" if given.concepts or given.remove or given.methods else out
    truths = read_truths("scenes", data.samples)
    first, more = surest(measured), others(measured)
    every = [*first, *more]
    chosen = {"confirmed": more, "together": every, "ceiling": every}
    chosen["influence"] = [*first, *more[::2]]
    methods = given.methods or OTHERWISE.get(given.stage, TAKEN_OUT_BY)
    concepts = given.concepts or chosen.get(given.stage, first)
    plan = RemovalPlan(
        out if swapped else folder(full) / "removed",  # more is measured of the windows
        config_of(full),
        data,
        [truth for truth in truths if truth.concept in concepts],
        classifier_for("scenes", [truth.concept for truth in truths], None, given.device),
        methods,
        given.remove or REMOVING[given.stage],
        options=QuestionOptions()
        if given.stage == "influence"
        else QuestionOptions(given.draws, guidance=3.0),
        recipes={name: recipe for name, recipe in RECIPES.items() if name in methods},
        windows=WINDOWS if swapped else (),
        clip=kept_clip(folder(full) / "models" / "clip", scene_captions, given.device)
        if "clip-cosine" in methods
        else None,
        executor=executor_of(given),
        device=given.device,
    )
    stated = about(given, concepts=concepts, recipes=plan.recipes)
    rows, _ = write_report(plan, run_counterfactual(plan), stated, own)
    print(markdown(rows), own / "table.md", sep="\n")


def rates_of(measured: Measured) -> dict[str, float]:
    """How surely the full model draws each concept."""
    return dict(zip(scene_outputs.CONCEPTS, measured["rates"], strict=True))


def surest(measured: Measured) -> list[str]:
    """The object, the two colours and the two styles with the highest rates in samples."""
    rates = rates_of(measured)
    return [
        concept
        for kind, count in (("object", 1), ("colour", 2), ("style", 2))
        for concept in sorted(ATTRIBUTES[kind], key=rates.__getitem__)[-count:]
    ]


def others(measured: Measured) -> list[str]:
    """All but the surest that it draws with a rate of a third or more."""
    known, rates = surest(measured), rates_of(measured)
    return [concept for concept in rates if concept not in known and rates[concept] >= 1 / 3]
