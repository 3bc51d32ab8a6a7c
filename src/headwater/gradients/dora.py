r"""Magnitudes of DoRA, which scale the rows of an adapted weight (Liu et al. 2024, section 4).

PEFT's layer adds to the output W x + b of the one that it adapts

    (m / n - 1) W x  +  (m / n) s B A x,        n = ||W + s B A||, row by row

and takes n for a number that has no gradient. That is linear in the magnitude m: dy/dm, here u, is
(W x + s B A x) / n, and the gradient of m is the sum over places of gy u. For the factors A and B,
layers of their own, nothing changes. For the bias b it does: PEFT takes it out of the output by
itself, so that what the adapted layer's output has for a gradient is not what b has.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Of PEFT, by the names of their classes; the one of embeddings returns something else.
_NAMES = re.compile(r"^Dora(Linear|Conv[123]d)Layer$")


def is_dora(kind: type) -> bool:
    """Whether a class of another library is a layer that holds magnitudes."""
    return _NAMES.search(kind.__name__) is not None


def slope(layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Float[Tensor, "b ..."]:
    """The u of one call: by the layer's own forward, of this magnitude less that of none.

    In float32 or better. Where the magnitude is zero, 1 stands for it.
    """
    at = torch.where(layer.weight == 0, torch.ones_like(layer.weight), layer.weight).detach()
    with torch.no_grad():
        with_it, without = (_of(layer, each, args, kwargs) for each in (at, at.new_zeros(at.shape)))
    wide = torch.promote_types(at.dtype, torch.float32)
    return (with_it.to(wide) - without.to(wide)) / at.to(wide)


def _of(layer: Any, weight: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """What the layer would return with this magnitude."""
    twin = copy.copy(layer)  # the layer itself may be at work in another thread
    twin._parameters = {**layer._parameters, "weight": weight}
    return type(layer).forward(twin, *args, **kwargs)


def magnitude(
    layer: Any, u: Float[Tensor, "b ..."], gy: Float[Tensor, "b ..."]
) -> tuple[Float[Tensor, "b o"]]:
    """The sum over tokens or places of gy u."""
    product = gy * u
    if layer.weight.ndim == 1:  # of a linear layer, whose last axis are outputs
        return (product.reshape(len(gy), -1, layer.weight.numel()).sum(1),)
    return (product.flatten(2).sum(2),)


def uses_bias_of(module: Any) -> str:
    """The part of a module whose bias it uses without calling it; empty if there is none."""
    if len(getattr(module, "lora_magnitude_vector", ())) == 0:
        return ""
    return "base_layer" if getattr(module.base_layer, "bias", None) is not None else ""


def is_identity(x: Tensor) -> bool:
    """Whether this is what PEFT sends through A and B to learn their product, and no batch.

    No gradient comes back from there, and it would be held for nothing.
    """
    if x.ndim != 2 or x.shape[0] != x.shape[1] or x.requires_grad:
        return False
    return torch.equal(x, torch.eye(len(x), dtype=x.dtype, device=x.device))
