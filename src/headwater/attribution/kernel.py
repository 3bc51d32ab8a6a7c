r"""The kernel K = Phi^T Phi / n + damping I, from one eigendecomposition.

With n < k the kernel has rank n at most and its primal inverse is numerically wrong in float32;
the dual form uses G = Phi Phi^T / n instead:  K^-1 Phi^T = Phi^T (G + damping I)^-1. Either way
every damping comes from the same eigendecomposition.

Rows may stand outside: the kernel is then of the others, and scores all. A row inside is shrunk by
its own part in K, to s = (1 - h) s' with s' its score by a kernel without it and h its leverage
(Sherman-Morrison); one outside is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

Blocks = Callable[[], Iterable[Float[Tensor, "r k"]]]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues (ascending) and eigenvectors of G (n x n, dual) or of Phi^T Phi / n (k x k)."""

    values: Float[Tensor, " m"]
    vectors: Float[Tensor, "m m"]
    dual: bool

    def damping(self, ratio: float) -> float:
        """The absolute lambda: ratio * trace / min(n, k), `ratio` times the mean eigenvalue.

        >>> Spectrum(torch.tensor([1.0, 3.0]), torch.eye(2), dual=False).damping(0.1)
        0.2
        """
        return ratio * self.values.sum().item() / len(self.values)


def spectrum(blocks: Blocks, n: int, k: int) -> Spectrum:
    """Eigendecompose the smaller of the two Gram matrices, in float64.

    Args:
        blocks: the n rows of features, some at a time, as often as it is called.
        n, k: rows and features; the Gram matrix is n x n (dual) where n < k, else k x k.

    >>> found = spectrum(lambda: torch.eye(2).split(1), 2, 2)
    >>> found.values, found.dual
    (tensor([0.5000, 0.5000]), False)
    """
    with tqdm(desc="kernel", unit="shard", delay=2, leave=False) as bar:
        gram = (_dual_gram if n < k else _primal_gram)(_ticking(blocks, bar), min(n, k))
        # One call, which can tell nothing of itself: minutes for 8,192 on a few cores.
        bar.set_description(f"eigenvalues of {min(n, k)} x {min(n, k)}", refresh=min(n, k) > 2_000)
        values, vectors = torch.linalg.eigh(gram / n)
    # Rounding leaves tiny negative eigenvalues of a matrix that has none.
    # Laid out as they are when read back, so that products with them round alike.
    return Spectrum(values.clamp_min(0).float(), vectors.float().contiguous(), dual=n < k)


def inside_of(blocks: Blocks, inside: Bool[Tensor, " n"]) -> Blocks:
    """The rows that are inside, to make a spectrum of.

    >>> blocks = inside_of(lambda: torch.eye(3).split(2), torch.tensor([True, False, True]))
    >>> [block.shape[0] for block in blocks()]
    [1, 1]
    """

    def chosen() -> Iterator[Tensor]:
        for start, block in _placed(blocks()):
            yield block[inside[start : start + len(block)]]

    return chosen


def _ticking(blocks: Blocks, bar: tqdm) -> Blocks:
    def ticking() -> Iterator[Tensor]:
        for block in blocks():
            yield block
            bar.update()

    return ticking


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


@dataclass(frozen=True)
class Kernel:
    """K of training rows with one relative damping, and what score rules ask of it and of all rows.

    Attributes:
        blocks: the rows phi_i, some at a time.
        spectrum: of the rows inside; None for rules that need no K.
        damping: lambda as a multiple of the mean eigenvalue of Phi^T Phi / n.
        count: n, the rows inside.
        residuals: mean squared errors of each row's probes, where noise was drawn.
        inside: of each row whether K is made of it; None: it is of all.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # Phi^T Phi / n has eigenvalues 0.5 and 2
    >>> kernel = Kernel(lambda: [rows], spectrum(lambda: [rows], 2, 2), damping=1.0, count=2)
    >>> kernel.trak(torch.tensor([[1.0, 1.0]]))  # 1 / (0.5 + 1.25) and 2 / (2 + 1.25)
    tensor([[0.5714, 0.6154]])
    """

    blocks: Blocks
    spectrum: Spectrum | None
    damping: float
    count: int
    residuals: Float[Tensor, "n p"] | None = None
    inside: Bool[Tensor, " n"] | None = None

    def dot(self, psi: Tensor) -> Float[Tensor, "q n"]:
        """Psi . phi_i."""
        return torch.cat([psi @ block.T for block in self.blocks()], 1)

    def trak(self, psi: Tensor) -> Float[Tensor, "q n"]:
        """psi^T K^-1 phi_i. Higher is a proponent: training on i moves the model to the query."""
        values, vectors, dual = self._parts()
        if not dual:
            return self.dot(((psi @ vectors) / values) @ vectors.T)
        # K^-1 Phi^T = Phi^T (Phi Phi^T / n + lambda)^-1
        if self.inside is None:
            return ((self.dot(psi) @ vectors) / values) @ vectors.T
        scores, inside = self.dot(self._solved(psi)), self.inside
        scores[:, inside] = ((self.dot(psi)[:, inside] @ vectors) / values) @ vectors.T
        return scores

    def norms(self) -> Float[Tensor, " n"]:
        """||phi_i||."""
        return torch.cat([block.norm(dim=1) for block in self.blocks()])

    def solved_norms(self) -> Float[Tensor, " n"]:
        """||K^-1 phi_i||."""
        if self.inside is None:
            return self._weighed(2).sqrt()
        return torch.cat([self._solved(block).norm(dim=1) for block in self.blocks()])

    def leverage(self) -> Float[Tensor, " n"]:
        """h_i = phi_i^T K^-1 phi_i / n, between 0 and 1; 0 of rows outside, which have no part."""
        own = self._weighed(1) / self.count
        if self.inside is None:
            return own
        if len(own) == len(self.inside):
            return own * self.inside
        return own.new_zeros(len(self.inside)).masked_scatter(self.inside, own)

    def _solved(self, rows: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
        """K^-1 of any rows.

        In the dual form (x - Phi^T (Phi Phi^T / n + lambda)^-1 Phi x / n) / lambda (Woodbury).
        """
        values, vectors, dual = self._parts()
        if not dual:
            return ((rows @ vectors) / values) @ vectors.T
        assert self.spectrum is not None
        own = self.blocks if self.inside is None else inside_of(self.blocks, self.inside)
        products = torch.cat([rows.double() @ block.double().T for block in own()], 1)
        weights = ((products @ vectors.double()) / values.double()) @ vectors.double().T
        parts = weights.split([len(block) for block in own()], 1)
        within = sum(w @ block.double() for w, block in zip(parts, own(), strict=True))
        left = rows.double() - within / self.count
        return (left / self.spectrum.damping(self.damping)).to(rows)

    def _weighed(self, power: int) -> Float[Tensor, " n"]:
        """phi_i^T K^-power phi_i; in the dual form of the rows inside alone."""
        values, vectors, dual = self._parts()
        if dual:  # phi_i^T V_j = V'_ij sqrt(n e_j), V' the eigenvectors of Phi Phi^T, e its values
            assert self.spectrum is not None
            return self.count * vectors.square() @ (self.spectrum.values / values**power)
        inside = [(block @ vectors).square() @ values**-power for block in self.blocks()]
        return torch.cat(inside)

    def _parts(self) -> tuple[Tensor, Tensor, bool]:
        """Eigenvalues of K, eigenvectors, and whether they are of the dual form."""
        assert self.spectrum is not None, "this rule needs the kernel"
        values = self.spectrum.values + self.spectrum.damping(self.damping)
        return values, self.spectrum.vectors, self.spectrum.dual
