"""How much a training's loss counts at each noise level."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.features.loss_weights import LOSS_WEIGHTS, loss_weights
from headwater.models.schedule import Schedule


def even(schedule: Schedule) -> Float[Tensor, " t"]:
    """Every timestep counts alike, as usual."""
    return torch.ones_like(schedule.s)


def shapes_first(schedule: Schedule) -> Float[Tensor, " t"]:
    """More weight where noise hides the shape, less where only texture is left to predict."""
    weight = LOSS_WEIGHTS["shapes-first"]
    return torch.tensor([weight(schedule, t) for t in range(len(schedule))])


def logit_normal(schedule: Schedule) -> Float[Tensor, " t"]:
    """As if timesteps were drawn as sigmoid(N(0, 1)): Esser et al. 2024, equation 19."""
    return torch.tensor(loss_weights("logit-normal", schedule, range(len(schedule))))


WEIGHTS: dict[str, Callable[[Schedule], Float[Tensor, " t"]]] = {
    "even": even,
    "shapes-first": shapes_first,
    "logit-normal": logit_normal,
}
