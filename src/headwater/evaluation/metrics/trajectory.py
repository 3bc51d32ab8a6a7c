"""Journey diagnostics that compare more than steps (Journey-TRAK, Georgiev et al. 2023).

Correlation and overlap between the steps of one journey are `answer.bootstrap.correlations`
and `attribution.trajectory.overlaps`; they are what these are made of.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headwater.attribution.answer.bootstrap import correlations
from headwater.attribution.trajectory import overlaps


def top_with_bottom(scores: Float[np.ndarray, "t n"], k: int = 10) -> Float[np.ndarray, "t t"]:
    """The share of the k highest of one step (row) among the k lowest of another (column).

    Do images that speak for the picture at one step speak against it at another? Figure B.4 there
    counts the pictures for which any entry is above 0; random scores have k / n on average.
    """
    steps = len(scores)
    return overlaps(np.concatenate([scores, -scores]), k)[:steps, steps:]


def seed_consistency(scores: Float[np.ndarray, "s t n"]) -> Float[np.ndarray, " t"]:
    """For every step, the mean Spearman correlation of the scores from two seeds.

    Args:
        scores: one journey for each seed, the steps in the same order.

    Raises:
        ValueError: there are fewer than two seeds.
    """
    if len(scores) < 2:
        raise ValueError(f"consistency over seeds needs at least 2 seeds; got {len(scores)}")
    pairs = np.triu_indices(len(scores), 1)
    return np.array([correlations(step)[pairs].mean() for step in scores.swapaxes(0, 1)])
