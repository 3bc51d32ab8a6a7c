"""AuraFlow: a flow transformer with learned places, of as many as its largest picture has."""

from __future__ import annotations

from math import isqrt
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.models.condition import Condition
from headwater.models.families.family import AS_SAVED, Reading
from headwater.models.families.flows import JointFlow
from headwater.models.families.words import device_of
from headwater.models.schedule import Timestep


class AuraFlow(JointFlow):
    """See `family.Family`."""

    kind = "AuraFlowTransformer2DModel"
    token_limits = {"tokenizer": 256}  # noqa: RUF012 - a constant of the pipeline

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        super().__init__(pipe, reading)
        config, side = pipe.transformer.config, max(self.latent_shape[1:])
        most = isqrt(config.pos_embed_max_size) * config.patch_size
        largest = max(self.image_size)
        if side > most:  # the network would read places of other rows
            raise ModelError(
                f"{type(pipe).__name__} has places for {most * largest // side} pixels "
                f"at most: {largest} (--resolution, --buckets) are too many"
            )

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
        """The flow at sigma."""
        assert condition is not None, "it reads words"
        return network(xt, timestep=self.sigma(t, xt), **condition.tensors).sample

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """UMT5's words, and zeros behind them."""
        words, *_ = pipe.encode_prompt(
            texts,
            do_classifier_free_guidance=False,
            device=device_of(pipe),
            max_sequence_length=pipe.tokenizer.model_max_length,
        )
        return Condition({"encoder_hidden_states": words})
