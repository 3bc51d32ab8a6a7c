"""Lumina 2: a flow transformer where words, refined first, and picture are one sequence of tokens.

A prompt is read behind a message to the language model that encodes it; the empty one is read bare,
as the pipeline has it without guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.flows import JointFlow
from headwater.models.families.sets import REFINED
from headwater.models.families.words import device_of
from headwater.models.schedule import Timestep


class Lumina2(JointFlow):
    """See `family.Family`."""

    kind = "Lumina2Transformer2DModel"
    parameter_sets = REFINED
    token_limits = {"tokenizer": 256}  # noqa: RUF012 - a constant of the pipeline

    def layout(self, config: Any) -> tuple[int, int]:
        """As its configuration says."""
        return config.in_channels, config.patch_size

    def preface(self) -> str:
        """The message, up to where the prompt begins."""
        return f"{self.pipe.system_prompt} <Prompt Start>"

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """The flow at sigma, which the network knows turned around: it predicts x0 - e at 1 - s."""
        assert condition is not None, "it reads words"
        words, mask = condition.tensors["words"], condition.tensors["mask"]
        return -network(xt, 1 - self.sigma(t, xt), words, mask).sample

    def encoding_facts(self) -> Mapping[str, Any]:
        """And the message."""
        return {**super().encoding_facts(), "template": self.pipe.system_prompt}

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """The last state but one of each token, message and padding included, and which count."""
        words, mask, bare, bare_mask = pipe.encode_prompt(
            texts,
            do_classifier_free_guidance=not all(texts),
            device=device_of(pipe),
            max_sequence_length=pipe.tokenizer.model_max_length,
        )
        if bare is not None:
            said = torch.tensor([bool(text) for text in texts], device=words.device)[:, None]
            words = torch.where(said[..., None], words, bare)
            mask = torch.where(said, mask, bare_mask)
        return Condition({"words": words, "mask": mask.bool()})
