"""Take out the images that a method names, train again: has the model forgotten the concept?

The model of everything is trained and attributed; for each method, concept and k another is trained
without the method's k highest images, and makes the same pictures again (das.txt Fig. 1,
journey-trak.txt 5.3 and 5.5). A second model of everything, with another seed, says how much
trainings differ when nothing is taken out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from headwater.data.training_set import Captions
from headwater.errors import QueryError
from headwater.evaluation.counterfactual.compare import (
    PictureChange,
    average_models,
    compare_pictures,
    rename_for_window,
)
from headwater.evaluation.counterfactual.plan import RemovalPlan, check_plan, removal_tasks
from headwater.evaluation.counterfactual.regenerate import (
    ConceptPrompts,
    PictureFile,
    Swap,
    cached_pictures,
    prompts_for,
    require_step,
)
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.ground_truth.oracles import ORACLES, break_ties
from headwater.evaluation.metrics.retrieval import recall_at, top_rows
from headwater.evaluation.retraining.networks import new_pipeline
from headwater.evaluation.retraining.retrain import (
    Measure,
    Measured,
    Study,
    Task,
    retrain,
    retrain_all,
    study_of,
)
from headwater.evaluation.studies.lds import NO_PROMPTS
from headwater.evaluation.studies.method_indexes import build_indexes, gradient_methods
from headwater.evaluation.studies.method_scores import score_concepts
from headwater.index.index import Index
from headwater.methods.row import Method
from headwater.models.denoiser import Denoiser

# What was measured of the models of one concept, means over seeds: name -> values.
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Removal:
    """What became of one concept without the k highest images of one method.

    Attributes:
        tasks: the models that were retrained, and `values` what was measured of them.
        share: of the removed images that show the concept; ambiguous ones are left out, and where
            nothing else was removed there is no share.
        gone: the share of the images that show it which are removed.
        gone_named: of those whose caption names it too; None where there are none.
    """

    tasks: Sequence[Task]
    values: Values
    share: float | None
    gone: float
    gone_named: float | None


@dataclass(frozen=True)
class Outcome:
    """What became of one concept.

    Attributes:
        before: the full model's pictures.
        full: what was measured of the full model, `again` of the other one.
        removals: by (method, k).
    """

    prompts: ConceptPrompts
    before: PictureFile
    full: Values
    again: Values
    removals: Mapping[tuple[str, int], Removal]


# --- models and what is measured of them ----------------------------------------------------------


def run_counterfactual(plan: RemovalPlan) -> dict[str, Outcome]:
    """Train what is missing; what became of each concept.

    Raises:
        MethodError, ParameterError, QueryError: see `check_plan`.
        ModelError: the model reads no prompts.
        MismatchError: the folder holds models of something else.
    """
    check_plan(plan)
    base = Denoiser(new_pipeline(plan.config, 0), "", "cpu")
    _check_model(plan, base)
    of_all = study_of(plan.out, plan.config, plan.data, base, device=plan.device)
    retrain(of_all, plan.full, plan.executor)
    models = FullModels(*(Denoiser.load(of_all.model(task), plan.device) for task in plan.full))
    scores = score_methods(plan, models.full)
    bar = tqdm(plan.truths, desc="concepts", unit="concept", delay=2)
    concepts = [
        _plan_concept(plan, of_all, models, truth, {m: rows[i] for m, rows in scores.items()})
        for i, truth in enumerate(bar)
    ]
    measured = retrain_all([(c.study, c.models()) for c in concepts], plan.executor)
    return {
        concept.truth.concept: _outcome(concept, outputs)
        for concept, outputs in zip(concepts, measured, strict=True)
    }


def _check_model(plan: RemovalPlan, base: Denoiser) -> None:
    """Refuse, before anything is trained, what this kind of model cannot do."""
    if not base.conditional:
        raise QueryError(NO_PROMPTS)
    for name in gradient_methods(plan.methods):
        base.layers(plan.recipes.get(name, {}).get("parameters"))
    for window in plan.windows:
        require_step(window, len(base.schedule))


@dataclass(frozen=True)
class FullModels:
    """The model that is attributed, and the same with another seed."""

    full: Denoiser
    again: Denoiser


@dataclass(frozen=True)
class ConceptPlan:
    """One concept before anything is taken out: see `Outcome`, and what is to be trained."""

    truth: Truth
    scores: Mapping[str, Float[np.ndarray, " n"]]
    prompts: ConceptPrompts
    before: PictureFile
    full: Values
    again: Values
    study: Study
    tasks: Mapping[tuple[str, int], Sequence[Task]]

    def models(self) -> list[Task]:
        """All that is trained."""
        return [task for tasks in self.tasks.values() for task in tasks]


def _plan_concept(
    plan: RemovalPlan,
    study: Study,
    models: FullModels,
    truth: Truth,
    scores: Mapping[str, Float[np.ndarray, " n"]],
) -> ConceptPlan:
    captions = Captions(plan.data.samples)
    prompts = prompts_for(truth.concept, truth.prompt, captions, plan.samples, plan.options.seed)
    before = cached_pictures(plan.out / "pictures", prompts, models.full)
    change = PictureChange(
        prompts,
        plan.classifier,
        before,
        Path(models.full.source),
        plan.out / "shown",
        tuple(plan.windows),
    )
    return ConceptPlan(
        truth,
        scores,
        prompts,
        before,
        *_measure_full(plan, prompts, before, models),
        replace(study, measure=Measure(change, change.facts())),
        removal_tasks(truth.concept, scores, plan.remove, plan.seeds),
    )


def _measure_full(
    plan: RemovalPlan, prompts: ConceptPrompts, before: PictureFile, models: FullModels
) -> tuple[Values, Values]:
    """The same measures of the two models of everything."""
    folder, old = plan.out / "pictures", before.read()
    unchanged = compare_pictures(plan.classifier, prompts, old, old)
    own = dict(unchanged)
    now = cached_pictures(folder, prompts, models.again).read()
    other = compare_pictures(plan.classifier, prompts, now, old)
    for window in plan.windows:
        swap = Swap(models.full, models.again, window)
        mixed = cached_pictures(folder, prompts, swap).read()
        of_window = compare_pictures(plan.classifier, prompts, mixed, old)
        other |= rename_for_window(window, of_window)
        own |= rename_for_window(window, unchanged)
    return average_models([own]), average_models([other])


def _outcome(concept: ConceptPlan, measured: Sequence[Measured]) -> Outcome:
    truth, remaining = concept.truth, iter(measured)
    named = truth.shows & truth.names
    removals = {}
    for (method, k), tasks in concept.tasks.items():
        scores = concept.scores[method]
        removals[method, k] = Removal(
            tasks,
            average_models([next(remaining) for _ in tasks]),
            share_showing(truth, top_rows(scores, k)),
            recall_at(scores, truth.shows, k),
            recall_at(scores, named, k) if named.any() else None,
        )
    return Outcome(concept.prompts, concept.before, concept.full, concept.again, removals)


def share_showing(truth: Truth, removed: Int[np.ndarray, " k"]) -> float | None:
    """The share of these images that show the concept; ambiguous ones count neither way."""
    certain = removed[~truth.ambiguous[removed]]
    return float(truth.shows[certain].mean()) if len(certain) else None


# --- scores ---------------------------------------------------------------------------------------


def score_methods(plan: RemovalPlan, full: Denoiser) -> dict[str, Float[np.ndarray, "q n"]]:
    """What each method scores every image for every concept; asked of indexes of the full model."""
    truths = list(plan.truths)
    names = [name for name in plan.methods if name not in ORACLES]
    folder = plan.out / "indexes"
    indexes: dict[Method, Index] = {}
    for name in names:
        recipe = plan.recipes.get(name, {})
        indexes |= build_indexes(full, plan.data, folder, [name], clip=plan.clip, **recipe)
    scores = score_concepts(indexes, truths, plan.options, plan.out / "scores") if names else {}
    for name, oracle in ORACLES.items():
        scores[name] = break_ties(oracle.scores(truths), plan.options.seed)
    return {name: scores[name] for name in plan.methods}
