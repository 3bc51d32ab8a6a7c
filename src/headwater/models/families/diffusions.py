"""Diffusion that keeps the variance: its schedule, and what its transformers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from headwater.errors import ModelError
from headwater.models.condition import Condition
from headwater.models.families.autoencoders import downscaling
from headwater.models.families.family import AS_SAVED, Reading
from headwater.models.families.flows import picture_size, require_plain
from headwater.models.families.latents import Latents
from headwater.models.families.sets import CROSS
from headwater.models.schedule import Schedule, Timestep, preserving


class DiffusionTransformer(Latents, ABC):
    """A transformer whose picture attends to itself, and then to words; see `family.Family`.

    Attributes:
        kind: the class of its network.
    """

    kind: ClassVar[str]
    parameter_sets: ClassVar[Mapping[str, str]] = CROSS
    default_parameters = ("words", "attention", "all")
    forgotten_parameters = ("words", "attention", "all")

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        config = pipe.transformer.config
        require_plain(pipe, config.in_channels)
        side = config.sample_size * downscaling(pipe.vae)
        size = picture_size(pipe, reading, config.patch_size, (side, side))
        super().__init__(pipe, pipe.transformer, config.in_channels, size, self.encode)
        self._schedule = diffusion_schedule(pipe)

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        """Whether its transformer is of this kind."""
        return type(getattr(pipe, "transformer", None)).__name__ == cls.kind

    def schedule(self) -> Schedule:
        """Of the pipeline's scheduler, whichever sampler that is."""
        return self._schedule

    @abstractmethod
    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """What the network reads of texts, with its graph."""
        ...


def timesteps(xt: Tensor, t: Timestep) -> Tensor:
    """The timestep of each row, for networks that take no number."""
    return t if isinstance(t, Tensor) else torch.full((len(xt),), t, device=xt.device)


def diffusion_schedule(pipe: Any) -> Schedule:
    """Of the scheduler, whichever sampler that is.

    Raises:
        ModelError: it has no such schedule, or predicts something else.
    """
    scheduler = pipe.scheduler
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(
            f"{type(scheduler).__name__} has no alphas_cumprod: give the pipeline a scheduler of "
            "the DDPM family, for instance DDIMScheduler"
        )
    return preserving(scheduler.alphas_cumprod, scheduler.config.get("prediction_type", "epsilon"))
