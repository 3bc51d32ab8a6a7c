"""Stable Diffusion 3 and 3.5: a flow transformer where words and picture attend to each other."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.flows import flow_schedule, picture_size, sigma_of
from headwater.models.families.latents import Latents
from headwater.models.families.sets import JOINT
from headwater.models.families.words import device_of
from headwater.models.schedule import Schedule


class Sd3(Latents):
    """See `family.Family`."""

    parameter_sets = JOINT
    token_limits = {"tokenizer_3": 256}  # noqa: RUF012 - a constant of the pipeline
    default_parameters = ("words", "attention", "all")
    forgotten_parameters = ("words", "attention", "all")

    def __init__(self, pipe: Any, resolution: int | None = None) -> None:
        config = pipe.transformer.config
        size = picture_size(pipe, resolution, config.patch_size)
        super().__init__(pipe, pipe.transformer, config.in_channels, size, self._encode)
        self._schedule = flow_schedule(pipe)

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        """Whether its transformer is that of Stable Diffusion 3."""
        return type(getattr(pipe, "transformer", None)).__name__ == "SD3Transformer2DModel"

    def schedule(self) -> Schedule:
        """Of the scheduler, with its fixed shift."""
        return self._schedule

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: int,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """The flow at 1000 sigma."""
        assert condition is not None, "it reads words"
        timestep = 1000 * sigma_of(self._schedule, t, xt)
        return network(xt, timestep=timestep, **condition.tensors).sample

    def _encode(self, pipe: Any, texts: list[str]) -> Condition:
        """Of all encoders that are there, and the pooled encoding of the first two."""
        words, _, pooled, _ = pipe.encode_prompt(
            texts, None, None, device=device_of(pipe), do_classifier_free_guidance=False
        )
        return Condition({"encoder_hidden_states": words, "pooled_projections": pooled})
