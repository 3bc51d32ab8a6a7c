"""Transformers of straight paths from picture to noise: what their families have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headwater.errors import ModelError
from headwater.models.families.latents import downscaling
from headwater.models.schedule import Schedule, flow


def flow_schedule(pipe: Any) -> Schedule:
    """Sigma of each training timestep, with the shift that is fixed, as the scheduler begins with.

    A shift by resolution belongs to sampling: trainers draw sigma without it.

    Raises:
        ModelError: the scheduler is none of flow matching, or turns sigma around.
    """
    config = pipe.scheduler.config
    if "FlowMatch" not in type(pipe.scheduler).__name__ or config.get("invert_sigmas"):
        raise ModelError(
            f"{type(pipe).__name__} is of flow matching, and its scheduler is a "
            f"{type(pipe.scheduler).__name__}: give it a FlowMatchEulerDiscreteScheduler"
        )
    steps = config.num_train_timesteps
    sigmas = torch.arange(1, steps + 1, dtype=torch.float32) / steps
    if not config.get("use_dynamic_shifting"):
        shift = config.get("shift", 1.0)
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    return flow(sigmas)


def sigma_of(schedule: Schedule, t: int, xt: Tensor) -> Tensor:
    """S at a timestep for each row, in the type of x_t."""
    return torch.full((len(xt),), schedule.rates(t)[1], device=xt.device, dtype=xt.dtype)


def picture_size(pipe: Any, resolution: int | None, patch: int) -> tuple[int, int]:
    """(height, width) in pixels: the pipeline's own, or a square of this resolution.

    Args:
        patch: height and width of a token in latents.

    Raises:
        ModelError: it is no multiple of what a token covers.
    """
    factor = downscaling(pipe.vae)
    side = resolution or pipe.default_sample_size * factor
    if side % (factor * patch):
        raise ModelError(
            f"--resolution {side}: {type(pipe).__name__} takes multiples of {factor * patch}"
        )
    return side, side
