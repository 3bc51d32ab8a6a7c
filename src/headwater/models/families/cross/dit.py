"""DiT: a diffusion transformer that reads a class instead of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.models.condition import Condition
from headwater.models.families.cross.labels import Labels
from headwater.models.families.diffusions import DiffusionTransformer, timesteps
from headwater.models.families.family import AS_SAVED, Reading
from headwater.models.families.sets import CLASSES
from headwater.models.schedule import Timestep


class DiT(DiffusionTransformer):
    """See `family.Family`."""

    kind = "DiTTransformer2DModel"
    parameter_sets = CLASSES

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        super().__init__(pipe, reading)
        height, width = self.image_size
        if height != width:  # its network takes tokens for those of a square
            raise ModelError(
                f"pictures of {height} x {width} pixels (--resolution, --buckets): "
                f"{type(pipe).__name__} takes squares alone"
            )
        count = pipe.transformer.config.num_embeds_ada_norm
        self.words = Labels(pipe.transformer, count, pipe.labels, empty=count)

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """The classes that texts name."""
        assert self.words is not None, "they are its words"
        return self.words.encode(texts)

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """The noise; learned variances come after it."""
        assert condition is not None, "it reads classes"
        out = network(xt, timestep=timesteps(xt, t), **condition.tensors).sample
        return out[:, : xt.shape[1]]

    def encoding_facts(self) -> Mapping[str, Any]:
        """Labels too."""
        return {**super().encoding_facts(), "labels": self.pipe.labels}
