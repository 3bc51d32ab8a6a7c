"""Does an answer hold the images that show the concept? Pure functions of scores and truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

Scores = Float[np.ndarray, " n"]
Truth = Bool[np.ndarray, " n"]


def top_rows(scores: Scores, k: int) -> np.ndarray:
    """Rows of the k highest scores, best first; ties keep the data set's order."""
    return np.argsort(-scores, kind="stable")[:k]


def precision_at(scores: Scores, truth: Truth, k: int = 10) -> float:
    """Share of the k best that are true."""
    return float(truth[top_rows(scores, k)].mean())


def recall_at(scores: Scores, truth: Truth, k: int) -> float:
    """Share of the true rows that are among the k best: at most k / |truth|."""
    return _hits(scores, truth, k) / int(truth.sum())


def capped_recall_at(scores: Scores, truth: Truth, k: int = 10) -> float:
    """Hits among the k best, of as many as there could be: hits / min(k, |truth|)."""
    return _hits(scores, truth, k) / min(k, int(truth.sum()))


def _hits(scores: Scores, truth: Truth, k: int) -> int:
    if not truth.any():
        raise ValueError("recall needs at least one true row")
    return int(truth[top_rows(scores, k)].sum())


def average_precision(scores: Scores, truth: Truth) -> float:
    """Mean, over the true rows, of the precision at their rank (without interpolation)."""
    hits = truth[top_rows(scores, len(scores))]
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
