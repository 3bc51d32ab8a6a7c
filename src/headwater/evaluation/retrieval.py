"""Does an answer hold the images that show the concept? Pure functions of scores and truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

Scores = Float[np.ndarray, " n"]
Truth = Bool[np.ndarray, " n"]


def best(scores: Scores, k: int) -> np.ndarray:
    """Rows of the k highest scores, best first; ties keep the data set's order."""
    return np.argsort(-scores, kind="stable")[:k]


def precision_at(scores: Scores, truth: Truth, k: int = 10) -> float:
    """Share of the k best that are true."""
    return float(truth[best(scores, k)].mean())


def recall_at(scores: Scores, truth: Truth, k: int) -> float:
    """Share of the true rows that are among the k best: at most k / |truth|."""
    return _hits(scores, truth, k) / int(truth.sum())


def capped_recall_at(scores: Scores, truth: Truth, k: int = 10) -> float:
    """Hits among the k best, of as many as there could be: hits / min(k, |truth|)."""
    return _hits(scores, truth, k) / min(k, int(truth.sum()))


def _hits(scores: Scores, truth: Truth, k: int) -> int:
    if not truth.any():
        raise ValueError("recall needs at least one true row")
    return int(truth[best(scores, k)].sum())


def average_precision(scores: Scores, truth: Truth) -> float:
    """Mean, over the true rows, of the precision at their rank (without interpolation)."""
    hits = truth[best(scores, len(scores))]
    if not hits.any():
        raise ValueError("average precision needs at least one true row")
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def isolation(scores: Scores, truth: Truth, others: Sequence[Truth], k: int = 10) -> float:
    """Precision@k of the concept minus the mean rate, in the same k, of the prompt's others.

    0: the method cannot tell which concept was asked for. Ideal: 1 minus the others' chance rate.
    """
    return precision_at(scores, truth, k) - float(
        np.mean([precision_at(scores, other, k) for other in others])
    )


def shown_unnamed_precision(scores: Scores, shows: Truth, names: Truth, k: int = 10) -> float:
    """Precision@k where no caption helps: among the images whose caption does not name the concept.

    Word matching has the precision of chance here, `shows[~names].mean()`. The ideal is 1, or less
    where fewer than k such images show the concept.

    Args:
        shows: whether the image shows the concept.
        names: whether its caption names it.

    Raises:
        ValueError: no image shows the concept unnamed, so that the precision could only be 0.
    """
    unnamed = ~names
    if not shows[unnamed].any():
        raise ValueError("no image shows the concept without its caption naming it")
    return precision_at(scores[unnamed], shows[unnamed], k)


def false_caption_rate(scores: Scores, shows: Truth, names: Truth, k: int = 10) -> float:
    """Share of the k best whose caption names the concept falsely: it is not in the image.

    Raises:
        ValueError: there is no such caption, so that the rate could only be 0.
    """
    false = names & ~shows
    if not false.any():
        raise ValueError("no caption names the concept falsely")
    return precision_at(scores, false, k)


# 97.5% quantiles of Student's t with 1, 2, ... degrees of freedom.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)


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
