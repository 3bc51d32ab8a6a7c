"""Transformers of straight paths from picture to noise: what their families have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from headwater.errors import ModelError
from headwater.models.condition import Condition
from headwater.models.families.autoencoders import downscaling, latent_channels
from headwater.models.families.family import AS_SAVED, Reading
from headwater.models.families.latents import Latents, require_multiples
from headwater.models.families.sets import CROSS, JOINT
from headwater.models.families.words import PAIRS
from headwater.models.schedule import Schedule, Timestep, flow

# Parts that what is asked about goes through, besides tokenizers and text encoders; that only look
# at finished pictures; and pictures in the place of prompts, which pipelines can do without.
_PARTS = ("transformer", "vae", "scheduler", "safety_checker", "image_encoder", "feature_extractor")

_USUAL = 128  # latents of a side, where neither the pipeline nor its network has that by a name


class FlowTransformer(Latents, ABC):
    """A flow transformer; see `family.Family`.

    Attributes:
        kind: the class of its network.
    """

    kind: ClassVar[str]
    # Parts that the family takes besides those of all.
    handled: ClassVar[Sequence[str]] = ()
    default_parameters = ("words", "attention", "all")
    forgotten_parameters = ("words", "attention", "all")

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        channels, patch = self.layout(pipe.transformer.config)
        require_plain(pipe, channels, self.handled)
        size = picture_size(pipe, reading, patch, self.own_size(pipe))
        super().__init__(pipe, self.network_of(pipe), channels, size, self.encode)
        self._schedule = flow_schedule(pipe)
        self._sigmas = self._schedule.s

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        """Whether its transformer is of this kind."""
        return type(getattr(pipe, "transformer", None)).__name__ == cls.kind

    def schedule(self) -> Schedule:
        """Of the scheduler, as trainers draw from it."""
        return self._schedule

    def sigma(self, t: Timestep, xt: Tensor) -> Tensor:
        """At a timestep, for each row; in float32 for networks in half precision too."""
        wide = torch.promote_types(xt.dtype, torch.float32)
        if isinstance(t, Tensor):
            # moved once: a step of training that is recorded on a GPU cannot reach the CPU
            self._sigmas = self._sigmas.to(xt.device)
            return self._sigmas[t].to(wide)
        return torch.full((len(xt),), self._schedule.rates(t)[1], device=xt.device, dtype=wide)

    def network_of(self, pipe: Any) -> nn.Module:
        """Its transformer."""
        return pipe.transformer

    def own_size(self, pipe: Any) -> tuple[int, int] | None:
        """(height, width) in pixels where the pipeline has no `default_sample_size`; else None."""
        return None

    @abstractmethod
    def layout(self, config: Any) -> tuple[int, int]:
        """(channels of latents, height and width of a token in latents)."""
        ...

    @abstractmethod
    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """What the network reads of texts, with its graph."""
        ...


class JointFlow(FlowTransformer, ABC):
    """One in which words and picture attend to each other."""

    parameter_sets: ClassVar[Mapping[str, str]] = JOINT


class CrossFlow(FlowTransformer, ABC):
    """One whose picture attends to itself, and then to words."""

    parameter_sets: ClassVar[Mapping[str, str]] = CROSS


def require_plain(pipe: Any, channels: int, handled: Sequence[str] = ()) -> None:
    """Refuse a pipeline whose transformer reads more than noisy latents and a prompt.

    Args:
        channels: of what the transformer takes for latents.
        handled: parts that its family knows what to do with.

    Raises:
        ModelError: names what is not supported.
    """
    name, own = type(pipe).__name__, latent_channels(pipe.vae)
    known = {*_PARTS, *PAIRS, *PAIRS.values()}
    for part, value in pipe.components.items():
        if value is not None and part not in known.union(handled):
            raise ModelError(
                f"{name} is not supported: it has a {part} beside its transformer, whose input no "
                "question gives"
            )
    if channels != own:
        raise ModelError(
            f"{name} is not supported: its transformer reads more than the noisy latents "
            f"(inpainting, control, editing): {channels} channels, and latents have {own}"
        )


def flow_schedule(pipe: Any) -> Schedule:
    """Sigma of each training timestep, with the shift that is fixed, as the scheduler begins with.

    A shift by resolution belongs to sampling: trainers draw sigma without it.

    Raises:
        ModelError: the scheduler is none of flow matching, or turns sigma around.
    """
    config = pipe.scheduler.config
    flows = "FlowMatch" in type(pipe.scheduler).__name__ or (
        config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction"
    )
    if not flows or config.get("invert_sigmas"):
        raise ModelError(
            f"{type(pipe).__name__} is of flow matching, and its scheduler is a "
            f"{type(pipe.scheduler).__name__}: give it a FlowMatchEulerDiscreteScheduler"
        )
    steps = config.num_train_timesteps
    sigmas = torch.arange(1, steps + 1, dtype=torch.float32) / steps
    if not config.get("use_dynamic_shifting"):
        shift = config.get("shift") or config.get("flow_shift") or 1.0
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    return flow(sigmas)


def told_guidance(pipe: Any, reading: Reading, usual: float) -> float | None:
    """What a transformer is told that was distilled from a guided one; None for any other.

    Raises:
        ModelError: it is any other, and was to be told.
    """
    asked = reading.distilled_guidance
    if pipe.transformer.config.get("guidance_embeds"):
        return usual if asked is None else asked
    if asked is not None:
        raise reading.refused(pipe, "distilled_guidance")
    return None


def picture_size(
    pipe: Any, reading: Reading, patch: int, own: tuple[int, int] | None = None
) -> tuple[int, int]:
    """(height, width) in pixels: as it is read, or the pipeline's own.

    Args:
        patch: height and width of a token in latents.
        own: the pipeline's, where it has no `default_sample_size`.

    Raises:
        ModelError: it is no multiple of what a token covers.
    """
    size = reading.size or own
    if size is None:
        usual = pipe.transformer.config.get("sample_size") or _USUAL
        side = getattr(pipe, "default_sample_size", usual) * pipe.vae_scale_factor
        size = side, side
    require_multiples(pipe, size, downscaling(pipe.vae) * patch)
    return size


def packed(
    xt: Float[Tensor, "b c h w"], patch: int
) -> tuple[Float[Tensor, "b tokens d"], Float[Tensor, "tokens 3"]]:
    """Tokens of patch times patch latents, row by row, and where each is: (0, row, column)."""
    blocks = F.pixel_unshuffle(xt, patch)
    height, width = blocks.shape[2:]
    rows, columns = torch.arange(height).to(xt), torch.arange(width).to(xt)
    places = torch.cartesian_prod(torch.zeros(1).to(xt), rows, columns)
    return blocks.flatten(2).transpose(1, 2), places


def unpacked(
    tokens: Float[Tensor, "b tokens d"], xt: Float[Tensor, "b c h w"], patch: int
) -> Float[Tensor, "b c h w"]:
    """What was packed so, in the places of `xt`."""
    height, width = xt.shape[2] // patch, xt.shape[3] // patch
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height, width)), patch)
