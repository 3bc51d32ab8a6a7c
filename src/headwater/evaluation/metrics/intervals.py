"""A mean with its 95% interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# 97.5% quantiles of Student's t with 1, 2, ... degrees of freedom.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)


class Interval(NamedTuple):
    """A mean, its 95% interval, and over how many values it is, where that is known.

    The interval of a single value is nan, "-" in tables and null in JSON.
    """

    mean: float
    low: float
    high: float
    n: int | None = None


def interval(values: Sequence[float | None]) -> Interval | None:
    """`mean_interval` of the values that are not None; None if there are none."""
    there = [value for value in values if value is not None]
    return Interval(*mean_interval(there), len(there)) if there else None


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean, and its 95% interval: the percentile bootstrap over 10,000 resamples.

    Of fewer than ten values it is Student's t: resamples of three would cover the mean three times
    in four. Of one value there is none (nan).
    """
    sample = np.asarray(values, float)
    mean = float(sample.mean())
    if len(sample) == 1:
        return mean, np.nan, np.nan
    if len(sample) <= len(T) + 1:
        half = float(T[len(sample) - 2] * sample.std(ddof=1) / np.sqrt(len(sample)))
        return mean, mean - half, mean + half
    rng = np.random.default_rng(seed)
    means = sample[rng.integers(len(sample), size=(10_000, len(sample)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return mean, float(low), float(high)
