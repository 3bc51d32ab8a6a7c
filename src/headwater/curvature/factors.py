r"""The two sides of a layer's Gauss-Newton matrix, and their eigenvectors (K-FAC).

Of a layer whose gradient is a sum over tokens or patches of gy x^T, the matrix is close to the
Kronecker product of A = E[x x^T] and S = E[gy gy^T], sums over tokens ("expand": Eschenhagen et al.
2023), means over samples (Martens & Grosse 2015). Layers of other kinds have no sides, and their
matrix is taken to be diagonal. A wide side is cut into equal blocks, between which the matrix is
taken to be zero: of at most `SIDE`, and of fewer where the blocks of all layers were too many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.gradients.layers import Call, factors, is_outer_product, parameters_of, size, widened

# The widest block of a side: its matrix is 64 MB, and eigenvectors of it take under a minute.
SIDE = 4096
# Of all blocks together: 2 GiB, and as much again for sums of a batch, and for each part of the
# images that is on disk while others are looked at. The cross-attention of Stable Diffusion 1 has a
# fifth of that, a LoRA of all layers of Flux would have many times as many.
MOST_NUMBERS = 2**29
SIDES = ("inputs", "outputs")


def shape_of(layer: nn.Module) -> tuple[int, int] | None:
    """(outputs, inputs) of a layer with two sides, the bias being one input more; else None."""
    if not is_outer_product(layer):
        return None
    outputs = len(parameters_of(layer)[0])
    return outputs, size(layer) // outputs


def widest(layers: Iterable[nn.Module]) -> int:
    """The widest block that the sides of these layers are cut into: `SIDE`, or a half, a quarter...

    >>> widest([nn.Linear(8, 8)])
    4096
    """
    sides = [side for layer in layers for side in shape_of(layer) or ()]
    width = SIDE
    while width > 1 and sum(w * w for side in sides for w in widths(side, width)) > MOST_NUMBERS:
        width //= 2
    return width


def widths(side: int, most: int = SIDE) -> list[int]:
    """Of the blocks that a side is cut into, none wider than `most`.

    >>> widths(768), widths(10_000), widths(768, 512)
    ([768], [3334, 3333, 3333], [384, 384])
    """
    count = -(-side // most)
    return [side // count + (number < side % count) for number in range(count)]


def tokens(
    layer: nn.Module, calls: Sequence[Call]
) -> tuple[Float[Tensor, "b t i"], Float[Tensor, "b t o"]]:
    """(x, gy) of all calls, one after the other, in float32 or better."""
    pairs = [factors(layer, x, gy) for x, gy in calls]
    x, gy = (torch.cat(side, 1) for side in zip(*pairs, strict=True))
    return widened(x), widened(gy)


def add_factors(
    sums: dict[str, Tensor],
    name: str,
    layer: nn.Module,
    calls: Sequence[Call],
    most: int = SIDE,
) -> None:
    """Add a batch's x x^T and gy gy^T to the sums of a layer with two sides.

    Args:
        sums: "LAYER|SIDE|BLOCK" -> [w, w], and "LAYER|tokens" -> how many x there were.
        most: the widest block, as `widest` has it.
    """
    sides = dict(zip(SIDES, tokens(layer, calls), strict=True))
    for side, values in sides.items():
        flat = values.flatten(0, 1)
        for number, part in enumerate(flat.split(widths(flat.shape[1], most), 1)):
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


def blocks_of(found: Mapping[str, Tensor], name: str, side: str, what: str) -> list[Tensor]:
    """Those of one side of a layer among all, block by block: "vectors" or "values"."""
    blocks: list[Tensor] = []
    while (key := f"{name}|{side}|{len(blocks)}|{what}") in found:
        blocks.append(found[key])
    return blocks


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
