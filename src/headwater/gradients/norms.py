r"""Per-sample gradients of norms: y = n(x) * (c + weight) + bias, where n has no parameters.

The weight's gradient is the sum over places of gy n(x), the bias's that of gy. c is 0, or 1 where
weights are kept as differences from 1 (Gemma).
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# Norms of diffusers and transformers, by the names of their classes. One kind is none: where the
# input is scaled first, the weight is inside of n.
_NAMES = re.compile(r"(?<!InputScaled)RMSNorm$|^T5LayerNorm$|^FP32LayerNorm$")


def is_norm(kind: type) -> bool:
    """Whether a class of another library is a norm that `own_norm` is for."""
    return _NAMES.search(kind.__name__) is not None


def group_norm(
    layer: nn.GroupNorm, x: Float[Tensor, "b c *space"], gy: Float[Tensor, "b c *space"]
) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    """Scale and shift of each channel, summed over places."""
    normalised = F.group_norm(x, layer.num_groups, eps=layer.eps)
    weight = (gy * normalised).reshape(*gy.shape[:2], -1).sum(2)
    return weight, gy.reshape(*gy.shape[:2], -1).sum(2)


def layer_norm(
    layer: nn.LayerNorm, x: Float[Tensor, "b ..."], gy: Float[Tensor, "b ..."]
) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    """Scale and shift of each normalised coordinate, summed over tokens."""
    normalised = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    return _scale_and_shift(layer.weight.numel(), normalised, gy)


def own_norm(
    layer: Any, x: Float[Tensor, "b ..."], gy: Float[Tensor, "b ..."]
) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    """The same with n(x) as the layer's own forward makes it.

    Libraries differ in what they compute in float32, even of a float64 model, so none of it is
    written anew here: n(x) is the layer with weight 1 less the layer with weight 0, which is exact
    for either c (n - 0, and 2n - n). The weight's shape is that of the last axes of x.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normalised = _with_weight(layer, wide, 1.0) - _with_weight(layer, wide, 0.0)
    return _scale_and_shift(layer.weight.numel(), normalised, gy)


def _with_weight(layer: nn.Module, x: Tensor, value: float) -> Tensor:
    """What the layer would return with this weight everywhere and no bias."""
    twin: Any = copy.copy(layer)  # the layer itself may be at work in another thread
    twin._parameters = {
        name: parameter
        if parameter is None
        else x.new_full(parameter.shape, value if name == "weight" else 0.0)
        for name, parameter in layer._parameters.items()
    }
    # of the class: no hooks, and not a forward that somebody bound to the layer itself
    return type(layer).forward(twin, x)


def _scale_and_shift(
    size: int, normalised: Float[Tensor, "b ..."], gy: Float[Tensor, "b ..."]
) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    weight = (gy * normalised).reshape(len(gy), -1, size).sum(1)
    return weight, gy.reshape(len(gy), -1, size).sum(1)
