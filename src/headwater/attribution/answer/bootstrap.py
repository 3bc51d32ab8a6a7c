"""How sure is an answer? A query's probes are random draws; other draws would rank otherwise.

Everything comes from the scores draw by draw (`scores.Scored`): nothing is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.scores import Scored

RESAMPLES = 200
CHUNK = 20  # resamples at a time, so that memory stays flat


@dataclass(frozen=True)
class Certainty:
    """What a bootstrap over a query's draws says of its answer.

    Attributes:
        draws: how many there were.
        errors: the standard error of each score, by bootstrap.
        stays: for the rows of the top `k`, the share of resamples that keep it in the top k.
        stability: the mean of `stays`.
        halves: Spearman's rank correlation of the scores from every other draw with the rest's.
    """

    draws: int
    k: int
    errors: Float[np.ndarray, " n"]
    stays: dict[int, float]
    stability: float
    halves: float


def certainty(
    scored: Scored, k: int = 10, seed: int = 0, among: Sequence[int] | None = None
) -> Certainty | None:
    """Resample the draws; None where there are too few (less than 2) to say anything.

    Args:
        scored: draw by draw, [q, n] or of several checkpoints [c, q, n].
        k: how many images the top has, of which `stays` and `stability` speak.
        seed: of the resamples.
        among: rows of the candidates; of them alone the top is made.

    >>> draws = torch.tensor([[9.0, 1.0, 0.0], [7.0, 2.0, 0.0]])
    >>> certainty(Scored(draws), k=1).stays  # row 0 leads in every resample
    {0: 1.0}
    """
    draws, n = scored.draws.shape[-2:]
    if draws < 2:
        return None
    handicap = torch.full((n,), 0.0 if among is None else -torch.inf)
    handicap[list(among or ())] = 0
    k = min(k, n if among is None else len(among))
    top = (scored.answer()[0] + handicap).topk(k).indices
    total = torch.zeros(2, n, dtype=torch.float64)
    kept = torch.zeros(k)
    for answers in resampled(scored, seed):
        total += torch.stack([answers.double().sum(0), answers.double().square().sum(0)])
        tops = (answers + handicap).topk(k, dim=1).indices  # [chunk, k]
        kept += (tops[:, :, None] == top).any(1).float().sum(0)
    mean, square = total / RESAMPLES
    stays = (kept / RESAMPLES).tolist()
    return Certainty(
        draws,
        k,
        (square - mean.square()).clamp_min(0).sqrt().numpy(),
        dict(zip(top.tolist(), stays, strict=True)),
        sum(stays) / k,
        _halves(scored),
    )


def resampled(scored: Scored, seed: int = 0) -> Iterator[Float[Tensor, "r n"]]:
    """Answers by `RESAMPLES` other choices of as many draws among them, some at a time."""
    draws = scored.draws.shape[-2]
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(draws, (RESAMPLES, draws), generator=generator)
    weights = torch.stack([row.bincount(minlength=draws) for row in picked]) / draws
    for part in weights.split(CHUNK):
        yield scored.answer(part.to(scored.draws))


def _halves(scored: Scored) -> float:
    halves = (scored.draws[..., start::2, :] for start in (0, 1))
    scores = [Scored(half, scored.squared).answer()[0].double().numpy() for half in halves]
    return float(correlations(np.stack(scores))[0, 1])


def correlations(scores: Float[np.ndarray, "s n"]) -> Float[np.ndarray, "s s"]:
    """Spearman's rank correlation of every row of scores with every other.

    Equal scores share the mean of their ranks. A row whose scores are all equal has no order to
    compare: its correlations are 0, where `scipy.stats.spearmanr` has nan.

    >>> correlations(np.array([[1.0, 2.0, 3.0], [9.0, 5.0, 1.0]])).round(2).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    ranks = np.stack([_ranks(row) for row in scores])
    ranks -= ranks.mean(1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    unit = ranks / np.where(length > 0, length, 1)
    return unit @ unit.T


def _ranks(row: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """`scipy.stats.rankdata`, without the second that its import adds to every answer."""
    ordered = np.sort(row)
    below, upto = (np.searchsorted(ordered, row, side) for side in ("left", "right"))
    return (below + upto + 1) / 2
