"""How much the loss bends along each axis of a layer's basis, by K-FAC or by EK-FAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.curvature.basis import Basis, gradient_in
from headwater.curvature.factors import SIDES, blocks_of
from headwater.gradients.layers import Call, size


def add_moments(
    sums: dict[str, Tensor], name: str, layer: nn.Module, basis: Basis, calls: Sequence[Call]
) -> None:
    """Add a batch's squares in the basis to the sums, "LAYER" -> [d]."""
    squares = [part.square().sum(0) for part in gradient_in(basis, layer, calls)]
    found = squares[0] if len(squares) == 1 else torch.cat(squares)
    sums[name] = found if name not in sums else sums[name].add_(found)


def products(layer: nn.Module, name: str, bases: Mapping[str, Tensor]) -> Float[Tensor, " d"]:
    """K-FAC's: an eigenvalue of S times one of A; zero for a layer that no image went through."""
    inputs, outputs = (blocks_of(bases, name, side, "values") for side in SIDES)
    if not inputs:  # it has no sides, or no image went through it
        return torch.zeros(size(layer))
    return torch.outer(torch.cat(outputs), torch.cat(inputs)).flatten()
