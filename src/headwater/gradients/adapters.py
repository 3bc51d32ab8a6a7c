r"""Adapters whose factors make up a change of a layer's weight: LoKr, LoHa (as PEFT has them).

The layer computes (W + D(f)) x + b, and D is a product of the factors f (LoKr: Kronecker's, of
small matrices; LoHa: Hadamard's, of two of low rank). So with G, the gradient of the whole weight,
which is that of the layer beside which the adapter stands,

    df = (dD/df)^T G

for each sample, by PEFT's own D. (A LoRA's factors are layers of their own, and need none of this.)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def adapter_factors(layer: nn.Module) -> dict[str, nn.Parameter]:
    """The factors of the adapters that take part in a layer, by name; empty where there are none.

    >>> adapter_factors(nn.Linear(2, 2))
    {}
    """
    if not hasattr(layer, "get_delta_weight"):
        return {}
    active = getattr(layer, "active_adapters", ())
    return {
        f"{kind}.{name}": factor
        for kind, held in _containers(layer).items()
        for name, factor in held.items()
        if name in active
    }


def factor_gradients(layer: Any, whole: Float[Tensor, "b w"]) -> tuple[Float[Tensor, "b _"], ...]:
    """The gradient of each sample by each factor, in the order of `adapter_factors`.

    Args:
        layer: PEFT's, around another.
        whole: the gradient of each sample by that one's weight.
    """
    twin = copy.copy(layer)  # of the same weights, with factors of its own that have gradients
    leaves = {
        kind: nn.ParameterDict({name: nn.Parameter(f.detach()) for name, f in held.items()})
        for kind, held in _containers(layer).items()
    }
    twin._modules = {**layer._modules, **leaves}
    factors = list(adapter_factors(twin).values())
    with torch.enable_grad():
        names = [name for name in twin.active_adapters if name in twin.scaling]
        change = torch.stack([twin.get_delta_weight(name) for name in names]).sum(0)
    rows = whole.to(change.dtype).reshape(len(whole), *change.shape)
    # one by one: not all of PEFT's products know batches of gradients
    found = [torch.autograd.grad(change, factors, row, retain_graph=True) for row in rows]
    return tuple(torch.stack(parts).flatten(1) for parts in zip(*found, strict=True))


def _containers(layer: nn.Module) -> Mapping[str, nn.ParameterDict]:
    """Kind of factor -> name of adapter -> factor; for LoRA none, whose factors are modules."""
    kinds: tuple[str, ...] = getattr(layer, "adapter_layer_names", ())
    held = {kind: getattr(layer, kind, None) for kind in kinds}
    return {kind: each for kind, each in held.items() if isinstance(each, nn.ParameterDict)}
