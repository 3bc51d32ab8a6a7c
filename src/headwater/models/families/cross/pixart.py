"""PixArt-alpha and PixArt-Sigma: diffusion transformers that read a prompt of T5.

The largest alpha also reads each picture's size and shape. Training took the size that a picture
came with, and the shape of what was left of it (`headwater.models.fitting`); a question is asked at
the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.diffusions import DiffusionTransformer, timesteps
from headwater.models.families.family import AS_SAVED, Reading, Replacement
from headwater.models.families.words import device_of, limited
from headwater.models.fitting import Fit
from headwater.models.schedule import Timestep


class PixArt(DiffusionTransformer):
    """See `family.Family`."""

    kind = "PixArtTransformer2DModel"

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        most = signature(pipe.encode_prompt).parameters["max_sequence_length"].default
        super().__init__(limited(pipe, {"tokenizer": most}), reading)

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """The noise; learned variances come after it."""
        assert condition is not None, "it reads words"
        tensors = dict(condition.tensors)
        sizes = {name: tensors.pop(name, None) for name in ("resolution", "aspect_ratio")}
        out = network(xt, timestep=timesteps(xt, t), added_cond_kwargs=sizes, **tensors).sample
        return out[:, : xt.shape[1]]

    def placed(self, condition: Condition, fits: Sequence[Fit]) -> Condition:
        """The same with each picture's own size and shape, if the network reads them."""
        return replace(condition, tensors={**condition.tensors, **self._sizes(fits, condition)})

    def faster(self, network: nn.Module, layers: Sequence[nn.Module]) -> Iterator[Replacement]:
        """Gates, and sizes embedded picture by picture, so that each has a row of its own."""
        yield from super().faster(network, layers)
        embedding: Any = network.adaln_single.emb  # pyright: ignore - of diffusers' network
        if embedding.use_additional_conditions:
            yield embedding, partial(_embedded, embedding)

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """T5's words, and which of them are there."""
        words, mask, _, _ = pipe.encode_prompt(texts, False, device=device_of(pipe))
        condition = Condition({"encoder_hidden_states": words, "encoder_attention_mask": mask})
        return self.placed(condition, [Fit(self.image_size, (0, 0), self.image_size)] * len(texts))

    def _sizes(self, fits: Sequence[Fit], condition: Condition) -> dict[str, Tensor]:
        network: Any = self.network
        if not network.use_additional_conditions:
            return {}
        own = condition.tensors["encoder_hidden_states"]
        sizes = torch.tensor([fit.original for fit in fits])
        shapes = torch.tensor([[fit.size[0] / fit.size[1]] for fit in fits])
        return {"resolution": sizes.to(own), "aspect_ratio": shapes.to(own)}


def _embedded(
    embedding: Any,
    timestep: Tensor,
    resolution: Tensor,
    aspect_ratio: Tensor,
    batch_size: int,
    hidden_dtype: torch.dtype,
) -> Tensor:
    """What the module says, which makes one row of all heights and widths of a batch."""
    time = embedding.timestep_embedder(embedding.time_proj(timestep).to(hidden_dtype))
    layers = embedding.resolution_embedder, embedding.aspect_ratio_embedder
    sizes = []
    for layer, numbers in zip(layers, (resolution, aspect_ratio), strict=True):
        waves = embedding.additional_condition_proj(numbers.flatten()).to(hidden_dtype)
        sizes.append(layer(waves.unflatten(0, numbers.shape)).flatten(1))
    return time + torch.cat(sizes, 1)
