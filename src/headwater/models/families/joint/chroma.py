"""Chroma: Flux.1 without guidance and pooled words, which is told where a prompt ends.

As the pipeline hands it over, the mask is a number that is added to attention, 1 from words (and
the first padding) to words, and 0 else: padding counts less, and is not hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headwater.models.condition import Condition
from headwater.models.families.joint.flux import Flux
from headwater.models.families.words import device_of


class Chroma(Flux):
    """See `family.Family`."""

    kind = "ChromaTransformer2DModel"
    token_limits = {"tokenizer": 512}  # noqa: RUF012 - a constant of the pipeline

    def read(self, xt: Float[Tensor, "b c h w"], condition: Condition) -> Mapping[str, Any]:
        """Words, and the mask of words and picture."""
        tensors = dict(condition.tensors)
        mask, (b, _, h, w) = tensors.pop("mask"), xt.shape
        whole = self.pipe._prepare_attention_mask(b, (h // 2) * (w // 2), xt.dtype, mask)
        return {"attention_mask": whole, **tensors}

    def network_facts(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """T5's words, and which of them count."""
        words, _, mask, *_ = pipe.encode_prompt(
            texts,
            device=device_of(pipe),
            do_classifier_free_guidance=False,
            max_sequence_length=pipe.tokenizer.model_max_length,
        )
        return Condition({"encoder_hidden_states": words, "mask": mask})
