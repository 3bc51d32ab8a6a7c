"""Flux.1: a flow transformer of packed latents; of `dev`, distilled from a guided model.

The distilled network reads the guidance that it imitates. Trainers hand it one number throughout;
ours is what the pipeline takes where nothing is said, or `--distilled-guidance`, and is part of the
model's fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.family import AS_SAVED, Reading
from headwater.models.families.flows import JointFlow, packed, told_guidance, unpacked
from headwater.models.families.words import device_of
from headwater.models.schedule import Timestep

GUIDANCE = 3.5
_PATCH = 2  # latents are packed two by two


class Flux(JointFlow):
    """See `family.Family`."""

    kind = "FluxTransformer2DModel"
    token_limits = {"tokenizer_2": 512}  # noqa: RUF012 - a constant of the pipeline

    readings = ("distilled_guidance",)

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        super().__init__(pipe, reading)
        self.guidance = told_guidance(pipe, reading, GUIDANCE)

    def layout(self, config: Any) -> tuple[int, int]:
        """Tokens are latents two by two."""
        return config.in_channels // _PATCH**2, _PATCH

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """The flow at sigma, of latents packed two by two."""
        assert condition is not None, "it reads words"
        tokens, places = packed(xt, _PATCH)
        words = condition.tensors["encoder_hidden_states"]
        out = network(
            tokens,
            timestep=self.sigma(t, xt),
            img_ids=places,
            txt_ids=xt.new_zeros(words.shape[1], 3),
            **self.read(xt, condition),
        ).sample
        return unpacked(out, xt, _PATCH)

    def read(self, xt: Float[Tensor, "b c h w"], condition: Condition) -> Mapping[str, Any]:
        """What the network reads beside latents, time and places."""
        scale = self.guidance
        guidance = None if scale is None else torch.full((len(xt),), scale, device=xt.device)
        return {"guidance": guidance, **condition.tensors}

    def network_facts(self) -> Mapping[str, Any]:
        """The guidance that a distilled network is told of."""
        return {} if self.guidance is None else {"guidance": self.guidance}

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """T5's words, and CLIP's pooled encoding."""
        words, pooled, _ = pipe.encode_prompt(texts, device=device_of(pipe))
        return Condition({"encoder_hidden_states": words, "pooled_projections": pooled})
