"""Wan 2.1 and 2.2: a flow transformer of videos, to which a picture is a video of one frame."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.models.condition import Condition
from headwater.models.families.flows import CrossFlow
from headwater.models.families.words import device_of

_TOKENS = 512  # what the pipeline pads a prompt to; its network reads the zeros too


class Wan(CrossFlow):
    """See `family.Family`."""

    kind = "WanTransformer3DModel"
    frames = (1,)
    token_limits = {"tokenizer": _TOKENS}  # noqa: RUF012 - a constant of the pipeline

    def __init__(self, pipe: Any, resolution: int | None = None) -> None:
        if getattr(pipe, "transformer_2", None) is not None:
            raise ModelError(
                f"{type(pipe).__name__} is not supported: it has two networks, each for a part of "
                "the noise (transformer and transformer_2), and one is attributed"
            )
        super().__init__(pipe, resolution)

    def own_size(self, pipe: Any) -> tuple[int, int] | None:
        """What the pipeline takes where nothing is said."""
        return 480, 832

    def layout(self, config: Any) -> tuple[int, int]:
        """As its configuration says; a token is as wide as it is high."""
        return config.in_channels, config.patch_size[1]

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c f h w"],
        t: int,
        condition: Condition | None,
    ) -> Float[Tensor, "b c f h w"]:
        """The flow at 1000 sigma, of any number of frames; UniPC would round that down."""
        assert condition is not None, "it reads words"
        return network(xt, timestep=1000 * self.sigma(t, xt), **condition.tensors).sample

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """T5's words."""
        words, _ = pipe.encode_prompt(
            texts,
            do_classifier_free_guidance=False,
            max_sequence_length=_TOKENS,
            device=device_of(pipe),
        )
        return Condition({"encoder_hidden_states": words})
