"""Do scores predict what happens when half of the images are gone? Plans, outputs and tables.

One model is trained on everything and attributed; others on random halves. A method's scores,
summed over a half, should rank what the models of the halves do (das.txt 4.2; `lds.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.metrics.lds import (
    lds,
    lds_difference,
    lds_interval,
    models_needed,
    noise_ceiling,
    predicted_outputs,
)
from headwater.evaluation.retraining.retrain import Measured, Task
from headwater.evaluation.retraining.subsets import halves

HALF_WIDTH = 0.05  # of the interval that `models needed` is about


@dataclass(frozen=True)
class Plan:
    """Which models are trained.

    Args:
        images: how many there are.
        subsets: random halves of them, each trained once.
        again: of how many of these a model with another seed is trained too: what two models of
            one half have in common bounds what a prediction can reach.
        seed: of the halves. The model of everything and each half's first have seed 0.
    """

    images: int
    subsets: int = 16
    again: int = 4
    seed: int = 0

    @property
    def chosen(self) -> Bool[np.ndarray, "m n"]:
        """The halves."""
        return halves(self.images, self.subsets, self.seed)

    @property
    def full(self) -> Task:
        """The model that is attributed."""
        return Task("full", tuple(range(self.images)), kept=True)

    def tasks(self) -> list[Task]:
        """All models: the one of everything, the halves, some of them again."""
        rows = [tuple(np.flatnonzero(half).tolist()) for half in self.chosen]
        first = [Task(f"half-{i:03d}", each) for i, each in enumerate(rows)]
        more = [Task(f"half-{i:03d}-again", rows[i], seed=1) for i in range(self.again)]
        return [self.full, *first, *more]


@dataclass(frozen=True)
class Found:
    """What was measured of the models of a plan: outputs [m, q], and [2, a, q] of two seeds."""

    outputs: Float[np.ndarray, "m q"]
    twice: Float[np.ndarray, "s a q"]


def collect(
    plan: Plan, measured: Sequence[Measured], output: Callable[[Measured], np.ndarray]
) -> Found:
    """One output of every model, in the order of `plan.tasks()`."""
    values = np.stack([np.asarray(output(each), float) for each in measured[1:]])
    first, again = values[: plan.subsets], values[plan.subsets :]
    return Found(first, np.stack([first[: plan.again], again]))


def rows_of(
    plan: Plan,
    found: Found,
    scores: Mapping[str, Float[np.ndarray, "q n"]],
    baseline: str | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """A row for each method: its LDS, how far it is above a baseline, and of the ceiling.

    Args:
        scores: method -> scores of every image for every query.
        baseline: a name of `scores`; differences are under common resamples.
        facts: more columns of a method.
    """
    true, subsets = found.outputs, plan.chosen
    predicted = {name: predicted_outputs(each, subsets) for name, each in scores.items()}
    ceiling = ceiling_of(found)
    rows = []
    for name, each in predicted.items():
        score = Interval(*lds_interval(true, each))
        row: dict[str, Any] = {"method": name, **(facts or {}).get(name, {}), "LDS": score}
        if baseline is not None:
            differs = None if name == baseline else lds_difference(true, each, predicted[baseline])
            row[f"above {baseline!r}"] = None if differs is None else Interval(*differs)
        row["of the ceiling"] = score.mean / ceiling.mean if ceiling and ceiling.mean > 0 else None
        row[f"models for +-{HALF_WIDTH}"] = models_needed(true, each, HALF_WIDTH)
        rows.append(row)
    rows.append({"method": "noise ceiling", "LDS": ceiling})
    return rows


def by_query(
    plan: Plan, found: Found, scores: Mapping[str, Float[np.ndarray, "q n"]]
) -> dict[str, list[float]]:
    """The LDS of each query, of each method: what the means of `rows_of` are means of."""
    return {
        name: lds(found.outputs, predicted_outputs(each, plan.chosen)).tolist()
        for name, each in scores.items()
    }


def ceiling_of(found: Found) -> Interval | None:
    """What no method can surpass; None where nothing was trained twice."""
    if found.twice.shape[1] < 2:
        return None
    return Interval(*noise_ceiling(found.twice, averaged=1).ceiling)
