r"""The curvature of one layer: a basis, and how much the loss bends along each of its axes.

F = (Q_S (x) Q_A) diag(moments) (Q_S (x) Q_A)^T, with eigenvectors Q_A and Q_S of the layer's two
sides. K-FAC takes the products of the sides' eigenvalues for moments; EK-FAC (George et al. 2018)
what gradients really have there, E[(Q_S^T G Q_A)^2], which is the best diagonal in that basis. A
layer without sides has the second moments of its gradient's own numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.curvature.factors import SIDES, blocks_of, tokens
from headwater.gradients.blocks import MOST, rows_at_once
from headwater.gradients.layers import Call, per_sample, size

Blocks = Sequence[Float[Tensor, "w w"]]


@dataclass(frozen=True)
class Basis:
    """Eigenvectors of a layer's sides, block by block; none for a layer without sides."""

    inputs: Blocks = ()
    outputs: Blocks = ()


def basis_of(layer: nn.Module, name: str, bases: Mapping[str, Tensor]) -> Basis:
    """That of a layer among the eigenvectors of all, as `factors.eigenbases` names them.

    It is empty for a layer without sides, and for one that no image went through.
    """
    device = next(layer.parameters()).device
    inputs, outputs = (
        tuple(block.to(device) for block in blocks_of(bases, name, side, "vectors"))
        for side in SIDES
    )
    return Basis(inputs, outputs)


def turned(values: Float[Tensor, "*n w"], blocks: Blocks) -> Float[Tensor, "*n w"]:
    """Rows in the eigenvectors' coordinates, v Q."""
    parts = values.split([len(q) for q in blocks], -1)
    turned_parts = [part @ q.to(values.dtype) for part, q in zip(parts, blocks, strict=True)]
    return turned_parts[0] if len(turned_parts) == 1 else torch.cat(turned_parts, -1)


def sizes_in(basis: Basis, layer: nn.Module) -> list[int]:
    """How many numbers each block of `gradient_in` has."""
    if not basis.inputs or size(layer) <= MOST:
        return [size(layer)]
    outputs, inputs = (sum(map(len, side)) for side in (basis.outputs, basis.inputs))
    step = rows_at_once(inputs)
    return [min(step, outputs - start) * inputs for start in range(0, outputs, step)]


def gradient_in(
    basis: Basis, layer: nn.Module, calls: Sequence[Call]
) -> Iterator[Float[Tensor, "b n"]]:
    """The gradient of each sample in the basis, Q_S^T G Q_A row by row, in blocks of rows.

    The bias is the last column. Of a layer without sides, its numbers as they are.
    """
    if not basis.inputs:
        yield per_sample(layer, calls)
        return
    x, gy = tokens(layer, calls)
    (places, inputs), outputs = x.shape[1:], gy.shape[2]
    turn_sides = places * (inputs**2 + outputs**2)
    turn_whole = outputs * inputs * (inputs + outputs)
    if inputs * outputs <= MOST and turn_whole < turn_sides:
        whole = turned(gy.transpose(1, 2) @ x, basis.inputs)
        yield turned(whole.transpose(1, 2), basis.outputs).transpose(1, 2).flatten(1)
        return
    x, gy = turned(x, basis.inputs), turned(gy, basis.outputs)
    for part in gy.transpose(1, 2).split(rows_at_once(inputs), 1):
        yield (part @ x).flatten(1)
