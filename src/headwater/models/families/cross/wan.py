"""Wan 2.1 and 2.2: a flow transformer of videos, to which a picture is a video of one frame.

The largest 2.2 is two transformers, of which one knows much noise and the other little. They are
attributed as one, whose layers are `high.` and `low.`; each has gradients where it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.flows import CrossFlow
from headwater.models.families.words import device_of
from headwater.models.fingerprint import config_facts
from headwater.models.schedule import Timestep

_TOKENS = 512  # what the pipeline pads a prompt to; its network reads the zeros too


class Wan(CrossFlow):
    """See `family.Family`."""

    kind = "WanTransformer3DModel"
    frames = (1,)
    token_limits = {"tokenizer": _TOKENS}  # noqa: RUF012 - a constant of the pipeline

    handled = ("transformer_2",)

    def network_of(self, pipe: Any) -> nn.Module:
        """Its transformer, or both as `high` and `low`."""
        if _boundary(pipe) is None:
            return pipe.transformer
        return nn.ModuleDict({"high": pipe.transformer, "low": pipe.transformer_2})

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
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c f h w"]:
        """The flow at 1000 sigma, of any number of frames; UniPC would round that down."""
        assert condition is not None, "it reads words"
        sigma, boundary = self.sigma(t, xt), _boundary(self.pipe)
        if boundary is not None:
            parts: Any = network
            assert isinstance(t, int), "rows of several timesteps are of two networks"
            network = parts["high" if self.schedule().rates(t)[1] >= boundary else "low"]
        return network(xt, timestep=1000 * sigma, **condition.tensors).sample

    def network_facts(self) -> Mapping[str, Any]:
        """Of two networks, their configurations and where one takes over."""
        boundary, parts = _boundary(self.pipe), dict(self.network.named_children())
        if boundary is None:
            return {}
        return {"boundary": boundary, **{name: config_facts(parts[name]) for name in parts}}

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """T5's words."""
        words, _ = pipe.encode_prompt(
            texts,
            do_classifier_free_guidance=False,
            max_sequence_length=_TOKENS,
            device=device_of(pipe),
        )
        return Condition({"encoder_hidden_states": words})


def _boundary(pipe: Any) -> float | None:
    """The sigma above which the first of two networks is asked; None where there is one."""
    return None if pipe.transformer_2 is None else pipe.config.boundary_ratio
