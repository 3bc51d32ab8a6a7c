"""Linear datamodeling score: do scores predict what models retrained on subsets do?

Ilyas et al. 2022 (datamodels); equations 19 and 20 of the DAS paper (Lin et al.). Pure functions of
outputs [m, q], those of m retrained models for q queries. Outputs are losses: negate one of which
more is better. Intervals are 95% bootstraps over the *subsets*, drawn for all queries jointly: the
queries of a table share their models and so are no independent draws.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from headwater.attribution.answer.bootstrap import correlations

RESAMPLES = 2_000

Outputs = Float[np.ndarray, "m q"]
Estimate = tuple[float, float, float]  # point, low, high
Choice = TypeVar("Choice", bound=Hashable)


def predicted_outputs(
    scores: Float[np.ndarray, "q n"], subsets: Bool[np.ndarray, "m n"]
) -> Float[np.ndarray, "m q"]:
    """Minus the sum of a query's scores over each subset: proponents lower the loss."""
    sums = subsets.astype(np.float64) @ scores.T.astype(np.float64)
    # A sum's last digits depend on the order of its terms: without rounding, subsets that tie
    # (scores all equal, say) would be ranked by them.
    scale = np.maximum(np.abs(scores).sum(1, dtype=np.float64), np.finfo(float).tiny)
    return -np.round(sums / scale, 12) * scale


def lds(true: Outputs, predicted: Outputs) -> Float[np.ndarray, " q"]:
    """Spearman's correlation of true and predicted outputs over the subsets, for each query.

    Ties share their mean rank. Where either side is the same for every subset there is nothing to
    rank: it counts 0, because a prediction that tells no subsets apart predicts nothing, and
    leaving such queries out would flatter the method that has most of them.

    Raises:
        ValueError: there are fewer than two subsets, or an output is not finite.
    """
    _require_finite(true, predicted)
    pairs = zip(true.T, predicted.T, strict=True)
    return np.array([correlations(np.stack(pair))[0, 1] for pair in pairs])


def lds_interval(true: Outputs, predicted: Outputs, seed: int = 0) -> Estimate:
    """The mean LDS over queries, and its 95% interval over subsets."""
    point, low, high = _interval(lds(true, predicted).mean(), _resampled(true, predicted, seed))
    return point, max(low, -1.0), min(high, 1.0)


def lds_difference(true: Outputs, predicted: Outputs, other: Outputs, seed: int = 0) -> Estimate:
    """Mean LDS of one method minus another's, both under the same resamples.

    Both methods see the same lucky and unlucky subsets, and the difference loses what they share:
    its interval is narrower than the two of `lds_interval` suggest.
    """
    point = lds(true, predicted).mean() - lds(true, other).mean()
    return _interval(point, _resampled(true, predicted, seed) - _resampled(true, other, seed))


def choose(
    true: Outputs, predicted: Mapping[Choice, Outputs], seed: int = 0
) -> tuple[Choice, np.ndarray]:
    """The one that does best on a random half of the subsets, and the other half's rows.

    Only the rows returned may be reported: on the first half, the best of many is best by luck too.

    Args:
        predicted: what to choose from (a damping ratio, a method, both) -> predicted outputs; the
            first of equally good ones is taken.

    Raises:
        ValueError: there is nothing to choose from, or there are fewer than 4 subsets.
    """
    if not predicted or len(true) < 4:
        raise ValueError(
            f"a choice needs something to choose from and 4 subsets at least; got {len(predicted)} "
            f"and {len(true)}"
        )
    order = np.random.default_rng(seed).permutation(len(true))
    chosen_on, held_out = np.split(order, [len(order) // 2])
    return choose_on(chosen_on, true, predicted), np.sort(held_out)


def choose_on(
    subsets: Int[np.ndarray, " s"], true: Outputs, predicted: Mapping[Choice, Outputs]
) -> Choice:
    """The one that does best on these subsets; to be reported on others only."""
    return max(predicted, key=lambda name: lds(true[subsets], predicted[name][subsets]).mean())


@dataclass(frozen=True)
class Ceiling:
    """What no prediction can surpass.

    Attributes:
        between: for each query, the mean Spearman correlation of the outputs of two seeds.
        ceiling: of the mean LDS over queries; point and 95% interval over subsets.
    """

    between: Float[np.ndarray, " q"]
    ceiling: Estimate


def noise_ceiling(
    true: Float[np.ndarray, "s m q"], averaged: int | None = None, seed: int = 0
) -> Ceiling:
    """The LDS of a perfect prediction, whose models differ from those measured by their seed alone.

    With r the mean correlation between seeds (over pairs and queries), the mean over a seeds has
    the reliability R = a r / (1 + (a - 1) r) (Spearman 1910, Brown 1910), and what is free of noise
    correlates with it by sqrt(R) (Spearman 1904). r <= 0 gives 0. The formulas are for linear
    correlation; for the ranks of normal outputs they are less than 0.01 too high. r is averaged
    before the root, not after: the root of one query's noisy r, cut at 0, would find ceilings in
    pure noise. (Where queries differ much in r, the root of the mean is above the mean of the
    roots: still a ceiling.)

    Args:
        true: outputs of s seeds of the same m subsets; some of a table's subsets are enough.
        averaged: of how many seeds the outputs are the mean that the table predicts; default s.

    Raises:
        ValueError: there are fewer than two seeds or subsets, or an output is not finite.
    """
    if len(true) < 2:
        raise ValueError(f"a noise ceiling needs at least 2 seeds per subset; got {len(true)}")
    pairs = list(zip(*np.triu_indices(len(true), 1), strict=True))
    between = np.mean([lds(true[a], true[b]) for a, b in pairs], axis=0)
    resampled = np.mean([_resampled(true[a], true[b], seed) for a, b in pairs], axis=0)
    # Of r, and only then the root: resamples cut at 0 would seem to be biased upwards.
    ends = _attenuation(np.array(_interval(between.mean(), resampled)), averaged or len(true))
    point, low, high = ends.tolist()
    return Ceiling(between, (point, low, high))


def models_needed(true: Outputs, predicted: Outputs, half_width: float, seed: int = 0) -> int:
    """How many subsets give the mean LDS a 95% interval of +-half_width.

    From the standard error over the subsets at hand, which falls as 1/sqrt(m). With several seeds
    for each subset, this is the number of subsets, not of trainings.
    """
    if half_width <= 0:
        raise ValueError(f"the half-width of an interval must be above 0; got {half_width}")
    error = _resampled(true, predicted, seed).std()
    return max(2, math.ceil(len(true) * (1.96 * error / half_width) ** 2))


def _require_finite(true: Outputs, predicted: Outputs) -> None:
    if len(true) < 2 or not (np.isfinite(true).all() and np.isfinite(predicted).all()):
        raise ValueError(f"an LDS needs finite outputs of 2 subsets or more; got {true.shape}")


def _attenuation(between: np.ndarray, averaged: int) -> np.ndarray:
    between = np.clip(between, 0, 1)
    return np.sqrt(averaged * between / (1 + (averaged - 1) * between))


# --- the bootstrap over subsets -------------------------------------------------------------------

# `scipy.stats.bootstrap` cannot do this: one resample of the subsets serves all queries of a table,
# and all methods that are compared; the interval is freed of a bias that is the ties', below. Nor
# is there a rank correlation with weights in scipy. Here a row that was drawn w times counts w
# times: the same number as `correlations` of rows repeated, a hundred times as fast.


def _resampled(true: Outputs, predicted: Outputs, seed: int) -> np.ndarray:
    """Mean LDS over queries in each resample of the subsets. One seed, one set of resamples."""
    _require_finite(true, predicted)
    m = len(true)
    drawn = np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), size=RESAMPLES)
    return _weighted_spearman(true, predicted, drawn.astype(float)).mean(1)


def _interval(point: float, resampled: np.ndarray) -> Estimate:
    """Percentiles, freed of the bias of resamples.

    A subset that is drawn twice ties with itself, which lowers a rank correlation: the resamples
    lie below the point, and the point as far below what it estimates. Without the correction the
    interval of a precise LDS misses the truth half of the time, and always below it.
    """
    bias = resampled.mean() - point
    low, high = np.percentile(resampled, [2.5, 97.5]) - 2 * bias
    return float(point), float(min(low, point)), float(max(high, point))


def _weighted_spearman(
    true: Outputs, predicted: Outputs, weights: Float[np.ndarray, "b m"]
) -> Float[np.ndarray, "b q"]:
    """One correlation for each query and each row of weights: how often a subset was drawn."""
    columns = []
    for column, other in zip(true.T, predicted.T, strict=True):
        x, y = _centred_ranks(column, weights), _centred_ranks(other, weights)
        both = (weights * x * y).sum(1)
        length = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
        columns.append(both / np.where(length > 0, length, np.inf))
    return np.stack(columns, 1)


def _centred_ranks(
    values: Float[np.ndarray, " m"], weights: Float[np.ndarray, "b m"]
) -> Float[np.ndarray, "b m"]:
    """The ranks in each resample less their mean: exact, as multiples of a half."""
    below = (values[:, None] > values) + 0.5 * (values[:, None] == values)  # [m, m]
    return weights @ below.T - weights.sum(1, keepdims=True) / 2
