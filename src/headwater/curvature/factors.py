r"""The two sides of a layer's Gauss-Newton matrix, and their eigenvectors (K-FAC).

Of a layer whose gradient is a sum over tokens or patches of gy x^T, the matrix is close to the
Kronecker product of A = E[x x^T] and S = E[gy gy^T], sums over tokens ("expand": Eschenhagen et al.
2023), means over samples (Martens & Grosse 2015). Layers of other kinds have no sides, and their
matrix is taken to be diagonal. A side wider than `SIDE` is cut into equal blocks, between which
the matrix is taken to be zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.gradients.layers import Call, factors, is_outer_product, parameters_of, size, widened

# The widest block of a side: its matrix is 64 MB, and eigenvectors of it take under a minute.
SIDE = 4096
SIDES = ("inputs", "outputs")


def shape_of(layer: nn.Module) -> tuple[int, int] | None:
    """(outputs, inputs) of a layer with two sides, the bias being one input more; else None."""
    if not is_outer_product(layer):
        return None
    outputs = len(parameters_of(layer)[0])
    return outputs, size(layer) // outputs


def widths(side: int) -> list[int]:
    """Of the blocks that a side is cut into.

    >>> widths(768), widths(10_000)
    ([768], [3334, 3333, 3333])
    """
    count = -(-side // SIDE)
    return [side // count + (number < side % count) for number in range(count)]


def tokens(
    layer: nn.Module, calls: Sequence[Call]
) -> tuple[Float[Tensor, "b t i"], Float[Tensor, "b t o"]]:
    """(x, gy) of all calls, one after the other, in float32 or better."""
    pairs = [factors(layer, x, gy) for x, gy in calls]
    x, gy = (torch.cat(side, 1) for side in zip(*pairs, strict=True))
    return widened(x), widened(gy)


def add_factors(
    sums: dict[str, Tensor], name: str, layer: nn.Module, calls: Sequence[Call]
) -> None:
    """Add a batch's x x^T and gy gy^T to the sums of a layer with two sides.

    Args:
        sums: "LAYER|SIDE|BLOCK" -> [w, w], and "LAYER|tokens" -> how many x there were.
    """
    sides = dict(zip(SIDES, tokens(layer, calls), strict=True))
    for side, values in sides.items():
        flat = values.flatten(0, 1)
        for number, part in enumerate(flat.split(widths(flat.shape[1]), 1)):
            _add(sums, f"{name}|{side}|{number}", part.T @ part)
    _add(sums, f"{name}|tokens", flat.new_tensor(float(len(flat))))


def _add(sums: dict[str, Tensor], key: str, value: Tensor) -> None:
    sums[key] = value if key not in sums else sums[key].add_(value)


def added(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sums of several batches or parts of the images, name by name."""
    total: dict[str, Tensor] = {}
    for part in parts:
        for key, value in part.items():
            _add(total, key, value)
    return total


def eigenbases(sums: Mapping[str, Tensor], probes: int) -> dict[str, Tensor]:
    """Eigenvectors and eigenvalues of every block of every side.

    Args:
        sums: of all images.
        probes: how many there were.

    Returns:
        "LAYER|SIDE|BLOCK|vectors" -> [w, w], a column each, and "...|values" -> [w], of A a mean
        over tokens, and of S a sum over tokens, mean over probes.
    """
    found: dict[str, Tensor] = {}
    for key, value in sums.items():
        if key.endswith("|tokens"):
            continue
        name, side, _ = key.rsplit("|", 2)
        count = float(sums[f"{name}|tokens"]) if side == "inputs" else probes
        values, vectors = torch.linalg.eigh(value.double() / count)
        found[f"{key}|vectors"] = vectors.float()
        found[f"{key}|values"] = values.clamp_min(0).float()
    return found
