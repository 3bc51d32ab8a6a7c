r"""ReTrack: a group is unlearned by sending its images where their neighbours outside it are.

An image a of the group, noised to x_t, is no longer to be predicted as itself but as the k nearest
images r outside, each by its posterior probability (Shi et al. 2025, as 2601.22651 uses it):

    w_r ~ exp(-||x_t - alpha r||^2 / (2 sigma^2)),   e' = e + sum_r w_r clip((alpha / sigma)(a - r))

where clip bounds the length by sqrt(2 cap), and so a KL divergence of each step of the making of a
picture by `cap` (the published code's bound). x0 follows, and with it the target of any kind of
prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwater.attribution.scorers.unlearned.descent import Noised
from headwater.models.schedule import Schedule


def nearest_outside(
    x0: Float[Tensor, "n ..."], group: Sequence[int], outside: Sequence[int], count: int
) -> Int[Tensor, "g k"]:
    """Of each image of a group the nearest rows outside it, by latents, at most `count`."""
    flat, rows = x0.flatten(1).float(), torch.tensor(list(outside))
    best = [
        torch.cdist(flat[part], flat[rows]).topk(min(count, len(rows)), largest=False).indices
        for part in torch.tensor(list(group)).split(256)
    ]
    return rows[torch.cat(best)]


def redirected(
    schedule: Schedule, noised: Noised, neighbours: Float[Tensor, "b k ..."], cap: float
) -> Float[Tensor, "b ..."]:
    """What the output should be at noised images of the group.

    Args:
        neighbours: clean, of each image.
        cap: of the KL divergence; infinite for no bound.
    """
    a, s = schedule.rates(noised.t)
    xt, x0 = noised.xt[:, None], noised.batch.x0[:, None]
    far = (xt - a * neighbours).flatten(2).square().sum(2)
    shares = (-far / (2 * s**2)).softmax(1)
    away = x0 - neighbours
    length = (a / s) * away.flatten(2).norm(dim=2)
    shares = shares * (math.sqrt(2 * cap) / length.clamp_min(1e-12)).clamp_max(1)
    pull = (shares.reshape(*shares.shape, *[1] * (away.ndim - 2)) * away).sum(1)
    return schedule.asked(noised.batch.x0 - pull, noised.noise + a / s * pull, noised.t)
