r"""Random projections of per-sample gradients, layer by layer, unbiased: E ||P g||^2 = ||g||^2.

Count-sketch (Charikar et al. 2002): coordinate j of layer l is added to feature h_l(j) with sign
s_l(j), both uniform. Inner products are kept in expectation, with variance of about ||a||^2 ||b||^2
/ k; every layer has the same scale whatever its shape. Hash and sign come from a seed made of the
run's seed and the layer's name, so a row depends on nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwater.errors import ParameterError


@dataclass(frozen=True)
class Sketch:
    """For each layer, the feature and the sign of every coordinate of its gradient."""

    dim: int
    bucket: Mapping[str, Int[Tensor, " d"]]
    sign: Mapping[str, Float[Tensor, " d"]]

    def add(self, out: Float[Tensor, "b k"], layer: str, gradient: Float[Tensor, "b d"]) -> None:
        """Add a layer's projected gradients to `out`, in place."""
        out.index_add_(1, self.bucket[layer], gradient * self.sign[layer])


def sketch(
    sizes: Mapping[str, int], dim: int, seed: int, device: torch.device | str = "cpu"
) -> Sketch:
    """A count-sketch of layers with these sizes into `dim` features.

    Raises:
        ParameterError: `dim` is larger than the number of parameters, or not positive.
    """
    require_dim(dim, sum(sizes.values()))
    bucket, sign = {}, {}
    for layer, size in sizes.items():
        generator = torch.Generator().manual_seed(layer_seed(seed, layer))
        draw = torch.randint(2 * dim, (size,), generator=generator)
        bucket[layer] = (draw // 2).to(device)
        sign[layer] = (2 * (draw % 2) - 1).to(device, torch.float32)
    return Sketch(dim, bucket, sign)


def require_dim(dim: int, parameters: int) -> None:
    """Refuse more features than there are parameters.

    Raises:
        ParameterError: `dim` is larger than the number of parameters, or not positive.
    """
    if not 1 <= dim <= parameters:
        raise ParameterError(
            f"--dim {dim} must lie between 1 and {parameters}, the number of attributed parameters"
        )


def layer_seed(seed: int, layer: str) -> int:
    """A 63-bit seed that belongs to this run and layer."""
    digest = hashlib.blake2b(f"{seed}|{layer}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
