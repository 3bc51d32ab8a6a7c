"""Stable Diffusion 3 and 3.5: a flow transformer where words and picture attend to each other."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.flows import JointFlow
from headwater.models.families.words import device_of
from headwater.models.schedule import Timestep


class Sd3(JointFlow):
    """See `family.Family`."""

    kind = "SD3Transformer2DModel"
    token_limits = {"tokenizer_3": 256}  # noqa: RUF012 - a constant of the pipeline

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
        """The flow at 1000 sigma."""
        assert condition is not None, "it reads words"
        return network(xt, timestep=1000 * self.sigma(t, xt), **condition.tensors).sample

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """Of all encoders that are there, and the pooled encoding of the first two."""
        words, _, pooled, _ = pipe.encode_prompt(
            texts, None, None, device=device_of(pipe), do_classifier_free_guidance=False
        )
        return Condition({"encoder_hidden_states": words, "pooled_projections": pooled})
