"""A mean with its 95% interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, t

RESAMPLES = 10_000
FEWEST = 10  # values that resamples can stand for; of fewer it is Student's t


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
    numbers = [value for value in values if value is not None]
    return Interval(*mean_interval(numbers), len(numbers)) if numbers else None


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean, and its 95% interval: the percentile bootstrap over 10,000 resamples.

    Of fewer than ten values it is Student's t: resamples of three would cover the mean three times
    in four. Of one value there is none (nan).
    """
    sample = np.asarray(values, float)
    mean = float(sample.mean())
    if len(sample) == 1:
        return mean, np.nan, np.nan
    if len(sample) < FEWEST:
        # To three decimals, as printed tables have it: published intervals keep their last digits.
        quantile = np.round(t.ppf(0.975, len(sample) - 1), 3)
        half = float(quantile * sample.std(ddof=1) / np.sqrt(len(sample)))
        return mean, mean - half, mean + half
    rng = np.random.default_rng(seed)
    resampled = bootstrap(
        (sample,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng
    ).confidence_interval
    return mean, float(resampled.low), float(resampled.high)
