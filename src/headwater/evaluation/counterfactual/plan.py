"""Which images are taken out of what, for which concepts; and what cannot be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headwater.data.training_set import TrainingSet
from headwater.errors import MethodError, ParameterError, QueryError
from headwater.evaluation.counterfactual.regenerate import Window
from headwater.evaluation.ground_truth.classifiers import Judge
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.ground_truth.oracles import CAPTION, KNOWN
from headwater.evaluation.metrics.retrieval import best
from headwater.evaluation.retraining.config import ModelConfig
from headwater.evaluation.retraining.retrain import Task, digest
from headwater.evaluation.studies.method_indexes import by_clip, of_gradients, require
from headwater.evaluation.studies.method_scores import Asking, require_named
from headwater.methods import METHODS, method_named
from headwater.models.clip import Clip
from headwater.report.export import slug
from headwater.runtime.executor import THIS_PROCESS, Executor

FEWEST = 4  # images that must be left to train on


@dataclass(frozen=True)
class Setting:
    """What is taken out of what, who judges, and where everything is kept.

    Attributes:
        methods: names of `METHODS` and of `KNOWN`.
        remove: how many images are taken out, each k.
        samples: prompts of each concept that name it; as many more do not.
        seeds: models trained for each removal.
        parameters: method -> of which parameters its gradients are, where not the usual ones.
        windows: timesteps for which a retrained model is also swapped into the full one, each.
    """

    out: Path
    config: ModelConfig
    data: TrainingSet
    truths: Sequence[Truth]
    judge: Judge
    methods: Sequence[str]
    remove: Sequence[int] = (25, 50, 100, 200)
    samples: int = 64
    seeds: int = 1
    asking: Asking = field(default_factory=Asking)
    clip: Clip | None = None
    windows: Sequence[Window] = ()
    executor: Executor = THIS_PROCESS
    device: str = "cpu"
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def full(self) -> tuple[Task, Task]:
        """The model that is attributed, and the same with another seed."""
        rows = tuple(range(len(self.data)))
        return Task("full", rows, kept=True), Task("full-again", rows, seed=1, kept=True)


def remaining(found: Float[np.ndarray, " n"], k: int) -> tuple[int, ...]:
    """The rows that are left without the k highest scores, in order; see `retrieval.best`."""
    left = np.ones(len(found), bool)
    left[best(found, k)] = False
    return tuple(np.flatnonzero(left).tolist())


def removals(
    concept: str,
    found: Mapping[str, Float[np.ndarray, " n"]],
    remove: Sequence[int],
    seeds: int = 1,
) -> dict[tuple[str, int], list[Task]]:
    """For each method and k the models to train, one for each seed.

    Names tell which images are left: scores whose last bits differ (another machine's) may name
    others, which are other models.

    Args:
        found: method -> scores of every image for the concept.
    """
    tasks = {}
    for method, each in found.items():
        for k in remove:
            rows = remaining(each, k)
            name, left = f"{slug(concept)}-{method}-{k:04d}", digest(rows)[:8]
            tasks[method, k] = [
                Task(f"{name}-seed{seed}-{left}", rows, seed) for seed in range(seeds)
            ]
    return tasks


def check(setting: Setting) -> None:
    """Refuse, before anything is trained, what cannot be done.

    Raises:
        MethodError, ParameterError, QueryError: names it.
    """
    unknown = [name for name in setting.methods if name not in (*KNOWN, *METHODS)]
    if unknown:
        there = ", ".join([*KNOWN, *METHODS])
        raise MethodError(f"there is no method {unknown[0]!r}; there are: {there}")
    similar = by_clip(setting.methods)
    if similar and setting.clip is None:
        raise MethodError(
            f"{similar[0]} needs a CLIP model: give its folder as --clip, or leave it out of "
            f"--methods ({CAPTION!r} takes out images whose caption names the concept)"
        )
    require([m for m in setting.methods if m not in (*KNOWN, *similar)], "concept")
    require_named([method_named(m) for m in setting.methods if m not in KNOWN], setting.truths)
    names = Counter(slug(truth.concept) for truth in setting.truths)
    same = [t.concept for t in setting.truths if names[slug(t.concept)] > 1]
    if same:
        raise QueryError(f"{' and '.join(same)} would share files: a folder for each")
    for name in setting.parameters:
        if name not in setting.methods or not of_gradients([name]):
            raise ParameterError(f"parameters of {name}, which takes no gradients here: leave out")
    n, most = len(setting.data), max(setting.remove)
    if min(setting.remove) < 1:
        raise ParameterError(f"--remove {min(setting.remove)} must be numbers from 1 up")
    if most > n - FEWEST:
        raise ParameterError(f"--remove {most} of {n} images: leave at least {FEWEST} to train on")
    strange = [t.concept for t in setting.truths if t.concept not in setting.judge.concepts]
    if strange:
        raise QueryError(f"the judge knows nothing of {', '.join(strange)}: leave it out")
