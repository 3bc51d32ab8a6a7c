"""Z-Image: a flow transformer of lists, where words and picture are one sequence of tokens."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.flows import JointFlow
from headwater.models.families.lengths import padded, unpadded
from headwater.models.families.sets import REFINED
from headwater.models.families.words import chat_preface, device_of
from headwater.models.schedule import Timestep

_PATCH = 2  # its forward's default, one frame deep
_TOKENS = 512  # of a prompt in its chat template, as the pipeline reads it


class ZImage(JointFlow):
    """See `family.Family`."""

    kind = "ZImageTransformer2DModel"
    parameter_sets = REFINED
    token_limits = {"tokenizer": _TOKENS}  # noqa: RUF012 - a constant of the pipeline
    # What embeds pictures and words takes the tokens of a whole batch as one list.
    mixed = (f"all_x_embedder.{_PATCH}-1", "cap_embedder")

    def layout(self, config: Any) -> tuple[int, int]:
        """Tokens are latents two by two."""
        return config.in_channels, _PATCH

    def preface(self) -> str:
        """The chat template's."""
        return chat_preface(self.pipe.tokenizer)

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """The flow at sigma, which the network knows turned around: it predicts x0 - e at 1 - s."""
        assert condition is not None, "it reads words"
        pictures = list(xt[:, :, None].unbind())  # each of one frame
        out = network(pictures, 1 - self.sigma(t, xt), unpadded(condition)).sample
        return -torch.stack(out)[:, :, 0]

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """A language model's last state but one, of the prompt in its chat template."""
        limit = pipe.tokenizer.model_max_length
        rows, _ = pipe.encode_prompt(
            texts,
            device_of(pipe),
            do_classifier_free_guidance=False,
            max_sequence_length=limit,
        )
        return padded(rows, limit)
