"""Qwen-Image: a flow transformer of packed latents; a model of pictures and words reads prompts.

The encoder reads a prompt within a request to describe a picture, which is dropped again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.flows import JointFlow, packed, unpacked
from headwater.models.families.lengths import padded, shortest
from headwater.models.families.words import device_of
from headwater.models.schedule import Timestep

_PATCH = 2  # latents are packed two by two


class QwenImage(JointFlow):
    """See `family.Family`."""

    kind = "QwenImageTransformer2DModel"
    token_limits = {"tokenizer": 512}  # noqa: RUF012 - what the pipeline's call takes

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
        words, mask = shortest(condition)
        (tokens, _), (b, _, h, w) = packed(xt, _PATCH), xt.shape
        out = network(
            tokens,
            encoder_hidden_states=words,
            encoder_hidden_states_mask=mask,
            timestep=self.sigma(t, xt),
            img_shapes=[[(1, h // _PATCH, w // _PATCH)]] * b,
        ).sample
        return unpacked(out, xt, _PATCH)

    def encoding_facts(self) -> Mapping[str, Any]:
        """And what is said around a prompt, and how much of it is dropped."""
        pipe = self.pipe
        template = [pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx]
        return {**super().encoding_facts(), "template": template}

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """The last state of each token from the prompt on."""
        limit = pipe.tokenizer.model_max_length
        words, mask = pipe.encode_prompt(texts, device_of(pipe), max_sequence_length=limit)
        counts = [words.shape[1]] * len(words) if mask is None else mask.sum(1).tolist()
        return padded([row[:count] for row, count in zip(words, counts, strict=True)], limit)
