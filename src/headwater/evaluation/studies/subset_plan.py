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
class SubsetPlan:
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
        halves = [tuple(np.flatnonzero(half).tolist()) for half in self.chosen]
        first = [Task(f"half-{i:03d}", rows) for i, rows in enumerate(halves)]
        more = [Task(f"half-{i:03d}-again", halves[i], seed=1) for i in range(self.again)]
        return [self.full, *first, *more]


@dataclass(frozen=True)
class SubsetOutputs:
    """What was measured of the models of a plan, of the halves alone.

    Attributes:
        outputs: of each half's first model.
        repeated: of both models of the halves that were trained again.
    """

    outputs: Float[np.ndarray, "m q"]
    repeated: Float[np.ndarray, "s a q"]

    def ceiling(self) -> Interval | None:
        """What no method can surpass; None where nothing was trained twice."""
        if self.repeated.shape[1] < 2:
            return None
        return Interval(*noise_ceiling(self.repeated, averaged=1).ceiling)


def collect(
    plan: SubsetPlan, measured: Sequence[Measured], output: Callable[[Measured], np.ndarray]
) -> SubsetOutputs:
    """One output of every model, in the order of `plan.tasks()`."""
    values = np.stack([np.asarray(output(outputs), float) for outputs in measured[1:]])
    first, again = values[: plan.subsets], values[plan.subsets :]
    return SubsetOutputs(first, np.stack([first[: plan.again], again]))


def lds_rows(
    plan: SubsetPlan,
    measured: SubsetOutputs,
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
    true, ceiling = measured.outputs, measured.ceiling()
    predicted = {name: predicted_outputs(own, plan.chosen) for name, own in scores.items()}
    rows = []
    for name, of_method in predicted.items():
        score = Interval(*lds_interval(true, of_method))
        row: dict[str, Any] = {"method": name, **(facts or {}).get(name, {}), "LDS": score}
        if baseline is not None:
            row[f"above {baseline!r}"] = (
                None
                if name == baseline
                else Interval(*lds_difference(true, of_method, predicted[baseline]))
            )
        row["of the ceiling"] = score.mean / ceiling.mean if ceiling and ceiling.mean > 0 else None
        row[f"models for +-{HALF_WIDTH}"] = models_needed(true, of_method, HALF_WIDTH)
        rows.append(row)
    rows.append({"method": "noise ceiling", "LDS": ceiling})
    return rows


def lds_by_query(
    plan: SubsetPlan, measured: SubsetOutputs, scores: Mapping[str, Float[np.ndarray, "q n"]]
) -> dict[str, list[float]]:
    """The LDS of each query, of each method: what the means of `lds_rows` are means of."""
    return {
        name: lds(measured.outputs, predicted_outputs(rows, plan.chosen)).tolist()
        for name, rows in scores.items()
    }
