r"""The kernel K = Phi^T Phi / n + damping I, from one eigendecomposition, and the score rules.

With n < k the kernel has rank n at most and its primal inverse is numerically wrong in float32;
the dual form uses G = Phi Phi^T / n instead:  K^-1 Phi^T = Phi^T (G + damping I)^-1. Either way
every damping comes from the same eigendecomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Blocks = Callable[[], Iterable[Float[Tensor, "r k"]]]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues (ascending) and eigenvectors of G (n x n, dual) or of Phi^T Phi / n (k x k)."""

    values: Float[Tensor, " m"]
    vectors: Float[Tensor, "m m"]
    dual: bool

    def damping(self, ratio: float) -> float:
        """The absolute lambda: ratio * trace / min(n, k), `ratio` times the mean eigenvalue."""
        return ratio * self.values.sum().item() / len(self.values)


def spectrum(blocks: Blocks, n: int, k: int) -> Spectrum:
    """Eigendecompose the smaller of the two Gram matrices, in float64."""
    gram = _dual_gram(blocks, n) if n < k else _primal_gram(blocks, k)
    values, vectors = torch.linalg.eigh(gram / n)
    # Rounding leaves tiny negative eigenvalues of a matrix that has none.
    # Laid out as they are when read back, so that products with them round alike.
    return Spectrum(values.clamp_min(0).float(), vectors.float().contiguous(), dual=n < k)


def _primal_gram(blocks: Blocks, k: int) -> Float[Tensor, "k k"]:
    gram = torch.zeros(k, k, dtype=torch.float64)
    for block in blocks():
        gram += (block.T @ block).double()
    return gram


def _dual_gram(blocks: Blocks, n: int) -> Float[Tensor, "n n"]:
    """Phi Phi^T with two blocks in memory at a time."""
    gram = torch.zeros(n, n, dtype=torch.float64)
    for start, rows in _placed(blocks()):
        for other, columns in _placed(blocks()):
            if other > start:
                break
            tile = (rows @ columns.T).double()
            gram[start : start + len(rows), other : other + len(columns)] = tile
            gram[other : other + len(columns), start : start + len(rows)] = tile.T
    return gram


def _placed(blocks: Iterable[Tensor]) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)


def trak_scores(
    blocks: Blocks, spectrum: Spectrum, psi: Float[Tensor, "q k"], damping: float
) -> Float[Tensor, "q n"]:
    """psi^T K^-1 phi_i for every query and training row; `damping` is the relative one.

    Higher is a proponent: training on the row moves the model towards the query.
    """
    eigen = spectrum.values + spectrum.damping(damping)
    vectors = spectrum.vectors
    if spectrum.dual:
        plain = torch.cat([psi @ block.T for block in blocks()], 1)  # [q, n]
        return ((plain @ vectors) / eigen) @ vectors.T
    whitened = ((psi @ vectors) / eigen) @ vectors.T  # [q, k]
    return torch.cat([whitened @ block.T for block in blocks()], 1)
