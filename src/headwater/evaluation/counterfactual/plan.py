"""Which images are taken out of what, for which concepts; and what cannot be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headwater.data.training_set import TrainingSet
from headwater.errors import MethodError, ParameterError, QueryError
from headwater.evaluation.counterfactual.regenerate import Window
from headwater.evaluation.ground_truth.classifiers import Classifier
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.ground_truth.oracles import CAPTION, ORACLES
from headwater.evaluation.metrics.retrieval import top_rows
from headwater.evaluation.retraining.config import ModelConfig
from headwater.evaluation.retraining.retrain import Task, digest
from headwater.evaluation.studies.method_indexes import (
    clip_methods,
    gradient_methods,
    require_askable,
)
from headwater.evaluation.studies.method_scores import QuestionOptions, require_named
from headwater.methods.choice import method_named
from headwater.methods.table import METHODS
from headwater.models.clip import Clip
from headwater.runtime.executor import THIS_PROCESS, Executor
from headwater.storage.files import slug

FEWEST = 4  # images that must be left to train on


@dataclass(frozen=True)
class RemovalPlan:
    """What is taken out of what, who judges, and where everything is kept.

    Attributes:
        methods: names of `METHODS` and of `ORACLES`.
        remove: how many images are taken out, each k.
        samples: prompts of each concept that name it; as many more do not.
        seeds: models trained for each removal.
        recipes: method -> options of its index, as of `build_index`, where not the usual ones.
        windows: timesteps for which a retrained model is also swapped into the full one, each.
    """

    out: Path
    config: ModelConfig
    data: TrainingSet
    truths: Sequence[Truth]
    classifier: Classifier
    methods: Sequence[str]
    remove: Sequence[int] = (25, 50, 100, 200)
    samples: int = 64
    seeds: int = 1
    options: QuestionOptions = field(default_factory=QuestionOptions)
    clip: Clip | None = None
    windows: Sequence[Window] = ()
    executor: Executor = THIS_PROCESS
    device: str = "cpu"
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def full(self) -> tuple[Task, Task]:
        """The model that is attributed, and the same with another seed."""
        rows = tuple(range(len(self.data)))
        return Task("full", rows, kept=True), Task("full-again", rows, seed=1, kept=True)


def remaining_rows(scores: Float[np.ndarray, " n"], k: int) -> tuple[int, ...]:
    """The rows that are left without the k highest scores, in order; see `top_rows`."""
    left = np.ones(len(scores), bool)
    left[top_rows(scores, k)] = False
    return tuple(np.flatnonzero(left).tolist())


def removal_tasks(
    concept: str,
    scores: Mapping[str, Float[np.ndarray, " n"]],
    remove: Sequence[int],
    seeds: int = 1,
) -> dict[tuple[str, int], list[Task]]:
    """For each method and k the models to train, one for each seed.

    Names tell which images are left: scores whose last bits differ (another machine's) may name
    others, which are other models.

    Args:
        scores: method -> scores of every image for the concept.
    """
    tasks = {}
    for method, of_method in scores.items():
        for k in remove:
            rows = remaining_rows(of_method, k)
            name, left = f"{slug(concept)}-{method}-{k:04d}", digest(rows)[:8]
            tasks[method, k] = [
                Task(f"{name}-seed{seed}-{left}", rows, seed) for seed in range(seeds)
            ]
    return tasks


def check_plan(plan: RemovalPlan) -> None:
    """Refuse, before anything is trained, what cannot be done.

    Raises:
        MethodError, ParameterError, QueryError: names it.
    """
    _check_methods(plan)
    _check_concepts(plan)
    n, most = len(plan.data), max(plan.remove)
    if min(plan.remove) < 1:
        raise ParameterError(f"--remove {min(plan.remove)} must be numbers from 1 up")
    if most > n - FEWEST:
        raise ParameterError(f"--remove {most} of {n} images: leave at least {FEWEST} to train on")


def _check_methods(plan: RemovalPlan) -> None:
    known = [*ORACLES, *METHODS]
    unknown = [name for name in plan.methods if name not in known]
    if unknown:
        raise MethodError(f"there is no method {unknown[0]!r}; there are: {', '.join(known)}")
    similar = clip_methods(plan.methods)
    if similar and plan.clip is None:
        raise MethodError(
            f"{similar[0]} needs a CLIP model: give its folder as --clip, or leave it out of "
            f"--methods ({CAPTION!r} takes out images whose caption names the concept)"
        )
    asked = [m for m in plan.methods if m not in (*ORACLES, *similar)]
    require_askable(asked, plan.options.ask)
    require_named([method_named(m) for m in plan.methods if m not in ORACLES], plan.truths)
    for name in plan.recipes:
        if name not in plan.methods or not gradient_methods([name]):
            raise ParameterError(f"a recipe of {name}, which takes no gradients here: leave it out")


def _check_concepts(plan: RemovalPlan) -> None:
    names = Counter(slug(truth.concept) for truth in plan.truths)
    same = [t.concept for t in plan.truths if names[slug(t.concept)] > 1]
    if same:
        raise QueryError(f"{' and '.join(same)} would share files: a folder for each")
    strange = [t.concept for t in plan.truths if t.concept not in plan.classifier.concepts]
    if strange:
        raise QueryError(f"the judge knows nothing of {', '.join(strange)}: leave it out")
