"""What taking images out has done: effects with intervals, method by method.

Effects are paired: every model makes the same pictures, so a drop is taken prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater.evaluation.counterfactual.study import Outcome, Values
from headwater.evaluation.ground_truth.oracles import CAPTION, ORACLES
from headwater.evaluation.metrics.intervals import Interval, interval

AGAIN = "another seed"  # the second model of everything
# What methods are held against: nothing known, then words or looks alone.
BASELINES = ("random", CAPTION, "clip-cosine")

SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)  # where the ranges of `share_rows` end


def pooled_interval(values: Sequence[np.ndarray]) -> Interval | float | None:
    """The mean of one array for each concept, with its 95% interval.

    Over concepts where there are several, of which each counts alike; over the prompts of the only
    one. A single number has no interval, and of nothing there is None.
    """
    measured = [array for array in values if len(array)]
    if not measured:
        return None
    of_concepts = [float(array.mean()) for array in measured]
    numbers = of_concepts if len(values) > 1 else measured[0].tolist()
    return interval(numbers) if len(numbers) > 1 else numbers[0]


def effects(full: Values, now: Values, of: str = "") -> dict[str, np.ndarray]:
    """What a model without some images does otherwise than the full one, prompt by prompt.

    Args:
        of: the end of the measures' names, for those of a window.
    """
    return {
        "rate": now[f"rate{of}"],
        "drop": full[f"rate{of}"] - now[f"rate{of}"],
        "others' drop": full[f"others{of}"] - now[f"others{of}"],
        "l2": now[f"l2{of}"],
        "l2 elsewhere": now[f"l2 elsewhere{of}"],
        "Frechet": now[f"frechet{of}"],
    }


def effect_rows(outcomes: Sequence[Outcome], of: str = "") -> list[dict[str, Any]]:
    """A row for each method and k, after those of the two models of everything."""
    table: list[dict[str, Any]] = [
        {
            "method": "the full model",
            "removed": 0,
            "of them show it": None,
            "of all that show it": None,
            "of all that show and name it": None,
            "rate": pooled_interval([outcome.full[f"rate{of}"] for outcome in outcomes]),
        },
        {"method": AGAIN, "removed": 0, **_pool([effects(o.full, o.again, of) for o in outcomes])},
    ]
    for key in outcomes[0].removals:
        method, k = key
        removals = [outcome.removals[key] for outcome in outcomes]
        table.append({
            "method": display_name(method),
            "removed": k,
            "of them show it": _mean([removal.share for removal in removals]),
            "of all that show it": float(np.mean([removal.gone for removal in removals])),
            "of all that show and name it": _mean([removal.gone_named for removal in removals]),
            **_pool([effects(o.full, o.removals[key].values, of) for o in outcomes]),
        })  # fmt: skip
    return table


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return float(np.mean(known)) if known else None


def _pool(of_concepts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Interval | float | None]:
    return {name: pooled_interval([e[name] for e in of_concepts]) for name in of_concepts[0]}


def drops_by_share(outcomes: Sequence[Outcome]) -> list[tuple[str, float, float]]:
    """Every retrained model whose concept some caption names.

    Returns:
        Its method, the share that was gone of the images that show the concept and name it, and the
        drop of the concept's rate, mean over prompts.
    """
    return [
        (method, removal.gone_named, float(effects(o.full, removal.values)["drop"].mean()))
        for o in outcomes
        for (method, _), removal in o.removals.items()
        if removal.gone_named is not None
    ]


def share_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The models of `drops_by_share` in ranges of what was gone; empty ranges are left out."""
    models, table, low = drops_by_share(outcomes), [], 0.0
    for high in SHARES:
        drops = [drop for _, gone, drop in models if low <= gone < high or gone == high == 1]
        if drops:
            table.append({
                "gone": f"{low:g} to {high:g}",
                "models": len(drops),
                "drop": float(np.mean(drops)),
                "least": min(drops),
                "most": max(drops),
            })  # fmt: skip
        low = high
    return table


def comparison_rows(outcomes: Sequence[Outcome], of: str = "") -> list[dict[str, Any]]:
    """By how much more each method does than each baseline, at the same k, of the same pictures."""
    methods = list(dict.fromkeys(method for method, _ in outcomes[0].removals))
    table, done = [], []
    for baseline in [name for name in BASELINES if name in methods]:
        done.append(baseline)
        for method, k in outcomes[0].removals:
            if method not in done:
                table.append({
                    "method": display_name(method),
                    "removed": k,
                    "more than": display_name(baseline),
                    **_difference(outcomes, (method, k), (baseline, k), of),
                })  # fmt: skip
    return table


def _difference(
    outcomes: Sequence[Outcome], first: tuple[str, int], second: tuple[str, int], of: str
) -> dict[str, Any]:
    pairs = [
        [effects(o.full, o.removals[key].values, of) for key in (first, second)] for o in outcomes
    ]
    return {
        name: pooled_interval([one[name] - other[name] for one, other in pairs])
        for name in ("drop", "others' drop", "l2", "l2 elsewhere", "Frechet")
    }


def display_name(method: str) -> str:
    """As tables and plots call it."""
    return ORACLES[method].name if method in ORACLES else method
