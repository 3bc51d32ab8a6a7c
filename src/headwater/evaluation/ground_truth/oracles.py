"""Baselines that ask what is known of images, and not the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from headwater.evaluation.ground_truth.concepts import Truth

MEMBERSHIP = "the caption names it"


def membership(truths: Sequence[Truth]) -> Float[np.ndarray, "q n"]:
    """The baseline of every table: 1 where the caption names it, else 0."""
    return np.stack([truth.names for truth in truths]).astype(np.float64)


def visibility(truths: Sequence[Truth]) -> Float[np.ndarray, "q n"]:
    """What a perfect answer knows: 1 where the image shows it, 0.5 where that is ambiguous."""
    return np.stack([truth.shows + 0.5 * truth.ambiguous for truth in truths])


def break_ties(scores: Float[np.ndarray, "q n"], seed: int = 0) -> Float[np.ndarray, "q n"]:
    """Multiples of a half with ties in random order: for a ranking; the data set would break them.

    The order of the images is one for all questions, so that none depends on which others there
    are. Not for sums: over half of the images the noise would count as much as the numbers.
    """
    return scores + 0.5 * np.random.default_rng(seed).random(scores.shape[1])


class Oracle(NamedTuple):
    """A baseline of what is known.

    Attributes:
        scores: of every image, for every truth; ties are for `break_ties`.
        name: in tables and plots.
        chosen: what was taken out, on sheets.
    """

    scores: Callable[[Sequence[Truth]], Float[np.ndarray, "q n"]]
    name: str
    chosen: str


CAPTION, TRUTH = "caption", "truth"
ORACLES = {
    CAPTION: Oracle(membership, MEMBERSHIP, "chosen by caption"),
    TRUTH: Oracle(visibility, "the image shows it", "chosen by what they show"),
}
