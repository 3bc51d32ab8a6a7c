"""UNets of images or latents: Stable Diffusion 1 and 2, DDPM, DDIM, and what is built like them.

A `unet` that is a UNet2DConditionModel or a UNet2DModel, with at most one text encoder and one
autoencoder, and a scheduler of the DDPM family.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.autoencoders import autoencoder, downscaling
from headwater.models.families.diffusions import diffusion_schedule
from headwater.models.families.family import AS_SAVED, Reading
from headwater.models.families.latents import Latents, require_multiples
from headwater.models.families.sets import UNET
from headwater.models.families.unets.clip_skip import layers_skipped, read_early
from headwater.models.families.unets.limits import require_supported
from headwater.models.families.words import device_of
from headwater.models.schedule import Schedule, Timestep

_NETWORKS = ("UNet2DConditionModel", "UNet2DModel")
_KEYS_AND_VALUES = re.compile(UNET["attn2-kv"])


class Unet(Latents):
    """See `family.Family`."""

    parameter_sets = UNET
    default_parameters = ("attn2", "attn", "all")
    # Keys and values of cross-attention, which bind pictures to words (the choice of Wang et al.);
    # those of self-attention, in a model that reads no prompts; everything.
    forgotten_parameters = ("attn2-kv", r"\.to_[kv](\.|$)", "all")

    # Parts and settings that the family takes besides those of Stable Diffusion 1.
    handled: ClassVar[Sequence[str]] = ()
    readings = ("clip_skip", "distilled_guidance")
    # The layer of its text encoders that is read where nothing is said, 1 being the last.
    usual_layer: ClassVar[int] = 1

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        require_supported(pipe, self.handled)
        self._skipped = layers_skipped(pipe, reading, self.usual_layer)
        self._guidance = _guidance(pipe, reading)
        config, factor = pipe.unet.config, downscaling(autoencoder(pipe))
        own = config.sample_size
        height, width = (own, own) if isinstance(own, int) else own
        size = reading.size or (height * factor, width * factor)
        require_multiples(pipe, size, factor)
        super().__init__(pipe, pipe.unet, config.in_channels, size, self._encode)

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        """Whether its `unet` is one of diffusers' own."""
        return type(getattr(pipe, "unet", None)).__name__ in _NETWORKS

    def schedule(self) -> Schedule:
        """Of the pipeline's scheduler, whichever sampler that is."""
        return diffusion_schedule(self.pipe)

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """What the network predicts; learned variances come after it."""
        given = {} if condition is None else condition.tensors
        return network(xt, t, **self.guidance(xt), **given).sample[:, : xt.shape[1]]

    def guidance(self, xt: Tensor) -> dict[str, Tensor]:
        """What a network is told that was distilled from a guided model (LCM); else nothing."""
        if self._guidance is None:
            return {}
        less = torch.full((len(xt),), self._guidance - 1)
        width = self.pipe.unet.config.time_cond_proj_dim
        return {"timestep_cond": self.pipe.get_guidance_scale_embedding(less, width).to(xt)}

    def _encode(self, pipe: Any, texts: list[str]) -> Condition:
        with read_early(pipe.text_encoder, self._skipped):
            encoded = pipe.encode_prompt(texts, device_of(pipe), 1, False)[0]
        return Condition({"encoder_hidden_states": encoded})

    # --- identity --------------------------------------------------------------------------

    def encoding_facts(self) -> Mapping[str, Any]:
        """And how many layers of text encoders are skipped, if any."""
        skipped = {"clip_skip": self._skipped} if self._skipped else {}
        return {**super().encoding_facts(), **skipped}

    def network_facts(self) -> Mapping[str, Any]:
        """The guidance that it is told, and what `enable_freeu` set.

        That is factors of backbone and skip features, block by block.
        """
        blocks = dict(self.network.named_modules())
        told = {} if self._guidance is None else {"guidance": self._guidance}
        return told | {
            f"{name}.{factor}": vars(block)[factor]
            for name, block in blocks.items()
            for factor in ("s1", "s2", "b1", "b2")
            if isinstance(vars(block).get(factor), (int, float))
        }

    # --- patches ---------------------------------------------------------------------------

    def kept_projections(self, network: nn.Module) -> Iterator[nn.Linear]:
        """Cross-attention keys and values."""
        for name, module in network.named_modules():
            if type(module) is nn.Linear and _KEYS_AND_VALUES.search(name):
                yield module


def _guidance(pipe: Any, reading: Reading) -> float | None:
    """What its network is told: as read, or what the pipeline takes; None where it is not told."""
    asked = reading.distilled_guidance
    if pipe.unet.config.get("time_cond_proj_dim") is None:
        if asked is not None:
            raise reading.refused(pipe, "distilled_guidance")
        return None
    if asked is not None:
        return asked
    return signature(pipe.__call__).parameters["guidance_scale"].default
