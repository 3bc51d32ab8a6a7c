r"""The count-sketch: coordinate j is added to feature h(j) with sign s(j) (Charikar et al. 2002).

h is balanced: coordinates are shuffled, laid out in rows of k, and the rows are added up. That is
as unbiased as a free h, because the signs are free; its variance, about ||a||^2 ||b||^2 / k, is no
larger; and a gather with a sum over rows adds in one order on every device, where scattered
additions do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

# Adds what a gradient, or a block of it, becomes to rows of features: f(out [b, k], rows [b, n]).
Place = Callable[[Tensor, Tensor], None]


def sketched(sizes: Sequence[int], dim: int, seed: int, device: torch.device) -> list[Place]:
    """The sketch of a gradient that comes in blocks of these sizes, or whole; into k features.

    However it is cut, h and s are the same.
    """
    d, generator = sum(sizes), torch.Generator().manual_seed(seed)
    order = torch.randperm(d, generator=generator, dtype=torch.int32)
    sign = 2 * torch.randint(2, (d,), generator=generator, dtype=torch.int8) - 1
    # A layer smaller than k, and the rest of a larger one, starts where chance says.
    start = int(torch.randint(dim, (), generator=generator))
    if len(sizes) == 1:
        order, sign = order.to(device), sign.to(device)
        return [partial(_add_whole, order, sign[order].float(), start)]
    features = _features(order, start, dim)
    parts = zip(features.split(list(sizes)), sign.split(list(sizes)), strict=True)
    return [_block(*part, dim, device) for part in parts]


def _add_whole(order: Tensor, sign: Tensor, start: int, out: Tensor, rows: Tensor) -> None:
    """`sign` is in the order of the shuffled coordinates."""
    dim = out.shape[1]
    whole = len(order) // dim * dim
    shuffled = rows.index_select(1, order).mul_(sign)
    if whole:
        out += shuffled[:, :whole].unflatten(1, (-1, dim)).sum(1)
    add_around(out, shuffled[:, whole:], start)


def add_around(out: Float[Tensor, "b k"], values: Float[Tensor, "b n"], start: int) -> None:
    """Add at most k values to the features from `start` on, going on at 0 after the last."""
    fits = min(values.shape[1], out.shape[1] - start)
    out[:, start : start + fits] += values[:, :fits]
    out[:, : values.shape[1] - fits] += values[:, fits:]


def _features(order: Tensor, start: int, dim: int) -> Tensor:
    """Of each coordinate j, h(j) as `_add_whole` lays it out."""
    places = torch.arange(len(order), dtype=torch.int32)
    rest = len(order) - len(order) % dim
    places[rest:] += start - rest
    features = torch.empty_like(order)
    features[order.long()] = places.remainder_(dim)
    return features


def _block(features: Tensor, sign: Tensor, dim: int, device: torch.device) -> Place:
    """Each coordinate to its feature: by a gather and a sum over rows here too.

    Column f of the table holds the coordinates that go to feature f, and signs of zero below them.
    """
    order = features.argsort(stable=True)
    column, counts = features[order].long(), torch.bincount(features, minlength=dim)
    row = torch.arange(len(order)) - (counts.cumsum(0) - counts)[column]
    table = torch.zeros(int(counts.max()), dim, dtype=torch.int32)
    signs = torch.zeros_like(table, dtype=torch.int8)
    table[row, column], signs[row, column] = order.int(), sign[order]
    return partial(_add_block, table.flatten().to(device), signs.flatten().to(device))


def _add_block(table: Tensor, signs: Tensor, out: Tensor, rows: Tensor) -> None:
    out += rows.index_select(1, table).mul_(signs).unflatten(1, (-1, out.shape[1])).sum(1)
