"""Sana: a flow transformer with linear attention, and a language model that reads prompts.

Before a prompt, and not before the empty one, its pipeline tells the language model what to make of
it; what is kept is the encoding of the prompt alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from inspect import signature
from itertools import groupby
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.models.condition import Condition, joined
from headwater.models.families.autoencoders import downscaling
from headwater.models.families.family import AS_SAVED, Reading
from headwater.models.families.flows import CrossFlow
from headwater.models.families.words import device_of, with_tokenizers
from headwater.models.schedule import Timestep


class Sana(CrossFlow):
    """See `family.Family`."""

    kind = "SanaTransformer2DModel"
    # of 300 places two are left to the instruction
    token_limits = {"tokenizer": 299}  # noqa: RUF012 - a constant of the pipeline

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        if pipe.transformer.config.get("guidance_embeds"):
            raise ModelError(
                f"{type(pipe).__name__} is not supported: its network was distilled to few steps "
                "(guidance_embeds), and predicts no flow: give the model that it was made from"
            )
        tokenizer = copy.copy(pipe.tokenizer)
        tokenizer.padding_side = "right"  # as the pipeline sets it when it is first called
        super().__init__(with_tokenizers(pipe, {"tokenizer": tokenizer}), reading)

    def own_size(self, pipe: Any) -> tuple[int, int] | None:
        """As its configuration says."""
        side = pipe.transformer.config.sample_size * downscaling(pipe.vae)
        return side, side

    def layout(self, config: Any) -> tuple[int, int]:
        """As its configuration says."""
        return config.in_channels, config.patch_size

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """The flow at 1000 sigma, in the network's own scale; learned variances come after it."""
        assert condition is not None, "it reads words"
        config: Any = self.network.config
        timestep = 1000 * self.sigma(t, xt) * config.timestep_scale
        return network(xt, timestep=timestep, **condition.tensors).sample[:, : xt.shape[1]]

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """The language model's words, and which of them are there."""
        order = sorted(range(len(texts)), key=lambda i: bool(texts[i]))  # the empty ones first
        parts = [
            _encoded(pipe, list(group), _instruction(pipe) if told else None)
            for told, group in groupby((texts[i] for i in order), bool)
        ]
        return joined(parts)[[order.index(i) for i in range(len(texts))]]

    def encoding_facts(self) -> Mapping[str, Any]:
        """The instruction too."""
        return {**super().encoding_facts(), "instruction": _instruction(self.pipe)}


def _encoded(pipe: Any, texts: list[str], instruction: Any) -> Condition:
    words, mask, _, _ = pipe.encode_prompt(
        texts, False, device=device_of(pipe), complex_human_instruction=instruction
    )
    return Condition({"encoder_hidden_states": words, "encoder_attention_mask": mask})


def _instruction(pipe: Any) -> list[str] | None:
    """What the pipeline says where nothing else is said."""
    return signature(pipe.__call__).parameters["complex_human_instruction"].default
