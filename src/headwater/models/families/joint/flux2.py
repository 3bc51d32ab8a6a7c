"""Flux.2: a flow transformer of latents that its autoencoder packs; language models read prompts.

Dev is distilled from a guided model, and has a processor of pictures and words for a tokenizer;
klein has neither. What a prompt lacks of the encoder's length is padding, which the network reads
like words.
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
from headwater.models.families.words import chat_preface, device_of, tokenizer_of
from headwater.models.schedule import Timestep

# What is told to a network distilled from a guided one: what the pipeline takes if nothing is said.
GUIDANCE = 4.0


class Flux2(JointFlow):
    """See `family.Family`."""

    kind = "Flux2Transformer2DModel"
    token_limits = {"tokenizer": 512}  # noqa: RUF012 - a constant of the pipeline

    readings = ("distilled_guidance",)

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        super().__init__(pipe, reading)
        self.guidance = told_guidance(pipe, reading, GUIDANCE)

    def layout(self, config: Any) -> tuple[int, int]:
        """Each latent is a token."""
        return config.in_channels, 1

    def preface(self) -> str:
        """The chat template's; dev's has a message in it."""
        pipe = self.pipe
        if not hasattr(pipe, "system_message"):
            return chat_preface(pipe.tokenizer)
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        return chat_preface(
            pipe.tokenizer, lambda text: format_input([text], pipe.system_message)[0]
        )

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """The flow at sigma, of latents in a row."""
        assert condition is not None, "it reads words"
        (tokens, _), pipe, words = packed(xt, 1), self.pipe, condition.tensors["words"]
        scale = self.guidance
        out = network(
            tokens,
            encoder_hidden_states=words,
            timestep=self.sigma(t, xt),
            guidance=None if scale is None else torch.full((len(xt),), scale, device=xt.device),
            img_ids=pipe._prepare_latent_ids(xt[:1]).to(xt.device),
            txt_ids=pipe._prepare_text_ids(words[:1]).to(xt.device),
        ).sample
        return unpacked(out, xt, 1)

    def network_facts(self) -> Mapping[str, Any]:
        """The guidance that a distilled network is told of."""
        return {} if self.guidance is None else {"guidance": self.guidance}

    def encoding_facts(self) -> Mapping[str, Any]:
        """And dev's message."""
        message = getattr(self.pipe, "system_message", None)
        return {**super().encoding_facts(), **({} if message is None else {"template": message})}

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """Three states of each token, of the prompt in its chat template and of its padding."""
        limit = tokenizer_of(pipe, "text_encoder").model_max_length
        words, _ = pipe.encode_prompt(texts, device_of(pipe), max_sequence_length=limit)
        return Condition({"words": words})
