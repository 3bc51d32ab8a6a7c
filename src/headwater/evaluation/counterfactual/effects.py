"""What taking images out has done: effects with intervals, method by method.

Effects are paired: every model makes the same pictures, so a drop is taken prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater.evaluation.counterfactual.study import Outcome, Values
from headwater.evaluation.ground_truth.oracles import CAPTION, KNOWN
from headwater.evaluation.metrics.intervals import Interval, interval

AGAIN = "another seed"  # the second model of everything
# What methods are held against: nothing known, then words or looks alone.
BASELINES = ("random", CAPTION, "clip-cosine")

SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)  # where the ranges of `by_share` end


def over(values: Sequence[np.ndarray]) -> Interval | float | None:
    """The mean of one array for each concept, with its 95% interval.

    Over concepts where there are several, of which each counts alike; over the prompts of the only
    one. A single number has no interval, and of nothing there is None.
    """
    there = [each for each in values if len(each)]
    if not there:
        return None
    numbers = [float(each.mean()) for each in there] if len(values) > 1 else there[0].tolist()
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


def rows(found: Sequence[Outcome], of: str = "") -> list[dict[str, Any]]:
    """A row for each method and k, after those of the two models of everything."""
    table: list[dict[str, Any]] = [
        {
            "method": "the full model",
            "removed": 0,
            "of them show it": None,
            "of all that show it": None,
            "of all that show and name it": None,
            "rate": over([each.full[f"rate{of}"] for each in found]),
        },
        {"method": AGAIN, "removed": 0, **_row([effects(o.full, o.again, of) for o in found])},
    ]
    for method, k in found[0].removed:
        each = [effects(outcome.full, outcome.removed[method, k], of) for outcome in found]
        table.append({
            "method": named(method),
            "removed": k,
            "of them show it": _mean([each.share[method, k] for each in found]),
            "of all that show it": float(np.mean([each.gone[method, k] for each in found])),
            "of all that show and name it": _mean([each.gone_named[method, k] for each in found]),
            **_row(each),
        })  # fmt: skip
    return table


def _mean(numbers: Sequence[float | None]) -> float | None:
    there = [number for number in numbers if number is not None]
    return float(np.mean(there)) if there else None


def _row(each: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Interval | float | None]:
    return {name: over([effect[name] for effect in each]) for name in each[0]}


def placed(found: Sequence[Outcome]) -> list[tuple[str, float, float]]:
    """Every retrained model whose concept some caption names.

    Returns:
        Its method, the share that was gone of the images that show the concept and name it, and the
        drop of the concept's rate, mean over prompts.
    """
    return [
        (method, gone, float(effects(each.full, each.removed[method, k])["drop"].mean()))
        for each in found
        for (method, k), gone in each.gone_named.items()
        if gone is not None
    ]


def by_share(found: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The models of `placed` in ranges of the share that was gone; empty ranges are left out."""
    models, table, low = placed(found), [], 0.0
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


def comparisons(found: Sequence[Outcome], of: str = "") -> list[dict[str, Any]]:
    """By how much more each method does than each baseline, at the same k, of the same pictures."""
    methods = list(dict.fromkeys(method for method, _ in found[0].removed))
    table, done = [], []
    for baseline in [name for name in BASELINES if name in methods]:
        done.append(baseline)
        for method, k in found[0].removed:
            if method not in done:
                table.append({
                    "method": named(method),
                    "removed": k,
                    "more than": named(baseline),
                    **_more(found, method, baseline, k, of),
                })  # fmt: skip
    return table


def _more(found: Sequence[Outcome], method: str, baseline: str, k: int, of: str) -> dict[str, Any]:
    pairs = [
        [effects(o.full, o.removed[name, k], of) for name in (method, baseline)] for o in found
    ]
    return {
        name: over([first[name] - second[name] for first, second in pairs])
        for name in ("drop", "others' drop", "l2", "l2 elsewhere", "Frechet")
    }


def named(method: str) -> str:
    """As tables and plots call it."""
    return KNOWN[method].name if method in KNOWN else method
