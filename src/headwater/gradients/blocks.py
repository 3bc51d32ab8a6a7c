r"""The gradient of each sample in blocks, of which one stands in memory.

A layer of a large transformer has tens of millions of numbers, and a batch of its gradients is that
many times the batch. Where the gradient is an outer product, G = sum over tokens of gy x^T, some
rows of G need these columns of gy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from headwater.gradients.layers import (
    Call,
    is_outer_product,
    parameters_of,
    per_sample,
    sides,
    size,
    summed,
)

# Numbers of a sample's gradient in a block.
MOST = 2**21


@dataclass(frozen=True)
class Form:
    """How the gradient of each sample comes from a layer's calls: in blocks of so many numbers.

    `blocks(calls)` yields [b, size] for each size in turn.
    """

    layer: nn.Module
    sizes: Sequence[int]
    blocks: Callable[[Sequence[Call]], Iterator[Tensor]]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(self.sizes)


def as_it_is(layer: nn.Module) -> Form:
    """The gradient by the layer's own parameters."""
    return Form(layer, block_sizes(layer), partial(blocks, layer))


def forms_as_they_are(layers: Mapping[str, nn.Module]) -> dict[str, Form]:
    """Of each layer."""
    return {name: as_it_is(layer) for name, layer in layers.items()}


def rows_at_once(width: int) -> int:
    """How many rows of a gradient are in a block; one of any width fits."""
    return max(1, MOST // width)


def block_sizes(layer: nn.Module) -> list[int]:
    """How many numbers each block of a layer has: rows of its weight, and then its bias.

    All is one block where that is small, or no outer product.

    >>> block_sizes(nn.Linear(1000, 4000))
    [2097000, 1903000, 4000]
    """
    if size(layer) <= MOST or not is_outer_product(layer):
        return [size(layer)]
    weight, *bias = parameters_of(layer)
    width = weight[0].numel()
    step = width * rows_at_once(width)
    whole = weight.numel()
    parts = [min(step, whole - start) for start in range(0, whole, step)]
    return [*parts, *(each.numel() for each in bias)]


def blocks(layer: nn.Module, calls: Sequence[Call]) -> Iterator[Float[Tensor, "b n"]]:
    """What `per_sample` gives, its numbers in the same order, in blocks of `block_sizes`."""
    if len(block_sizes(layer)) == 1:
        yield per_sample(layer, calls)
        return
    pairs = [sides(layer, x, gy) for x, gy in calls]
    outputs, width = pairs[0][1].shape[2], pairs[0][0].shape[2]
    for start in range(0, outputs, rows_at_once(width)):
        rows = slice(start, start + rows_at_once(width))
        yield summed((gy[..., rows].transpose(1, 2) @ x).flatten(1) for x, gy in pairs)
    if len(parameters_of(layer)) > 1:
        yield summed(gy.sum(1) for _, gy in pairs)
