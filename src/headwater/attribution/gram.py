"""The Gram matrix of rows, in float64: made, made of fewer, factored, decomposed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwater.errors import NonFiniteError, ResourceError
from headwater.runtime.batch_size import out_of_memory
from headwater.runtime.memory import room_bytes
from headwater.runtime.progress import ProgressBar, one_call

Blocks = Callable[[], Iterable[Float[Tensor, "r k"]]]
STRIP = 2_048  # columns of the matrix that are made at a time
SAVE_EVERY = 300.0  # seconds
# Bytes for each number of the matrix: itself, damped, and a factor of that, in float64.
HELD = 3 * 8
LARGE = 2_000  # rows; of 8,192 a factor takes seconds on a few cores, eigenvalues minutes


@dataclass(frozen=True)
class Inverse:
    """(G + lambda I)^-1 by its Cholesky factor L, lower triangular, L L^T = G + lambda I."""

    factor: Float[Tensor, "m m"]

    def times(self, columns: Float[Tensor, "m q"]) -> Float[Tensor, "m q"]:
        """The inverse times these, in float64: how many there are should not be seen in any."""
        return torch.cholesky_solve(columns.double(), self._exact).to(columns)

    def half(self, columns: Float[Tensor, "m q"]) -> Float[Tensor, "m q"]:
        """L^-1 times these: the squares of x's half sum to x^T (G + lambda I)^-1 x."""
        return torch.linalg.solve_triangular(self.factor, columns, upper=False)

    def whole(self) -> Float[Tensor, "m m"]:
        """The inverse itself."""
        return torch.cholesky_inverse(self._exact)

    @cached_property
    def _exact(self) -> Float[Tensor, "m m"]:
        return self.factor.double()


class Spectrum(NamedTuple):
    """G by its eigenvalues (ascending) and eigenvectors."""

    values: Float[Tensor, " m"]
    vectors: Float[Tensor, "m m"]

    def solved(self, columns: Float[Tensor, "m q"], ratio: float) -> Float[Tensor, "m q"]:
        """(G + lambda I)^-1 times these."""
        values, vectors = self.values.to(columns), self.vectors.to(columns)
        damped = values + ratio * values.mean()
        return vectors @ ((vectors.T @ columns) / damped[:, None])


@dataclass(frozen=True)
class Gram:
    """G: Phi Phi^T / n (n x n, dual) or Phi^T Phi / n (k x k), in float64."""

    matrix: Float[Tensor, "m m"]
    dual: bool

    def damping(self, ratio: float) -> float:
        """The absolute lambda: ratio * trace / min(n, k), `ratio` times the mean eigenvalue.

        >>> Gram(torch.diag(torch.tensor([1.0, 3.0])), dual=False).damping(0.1)
        0.2
        """
        return ratio * self.matrix.trace().item() / len(self.matrix)

    @property
    def _size(self) -> str:
        return " x ".join(map(str, self.matrix.shape))

    def factor(self, ratio: float) -> Float[Tensor, "m m"]:
        """The Cholesky factor of G + lambda I, in float32.

        Raises:
            NonFiniteError: there is none: features are zero or not finite, or lambda is too small.
        """
        damped = self.matrix.clone()
        damped.diagonal().add_(self.damping(ratio))
        with one_call(f"factor of {self._size}", len(damped) > LARGE):
            factor, wrong = torch.linalg.cholesky_ex(damped)
        if wrong or not factor.diagonal().isfinite().all():
            raise NonFiniteError(f"the kernel has no inverse at --damping {ratio:g}: raise it")
        # Laid out as it is when read back, so that products with it round alike.
        return factor.float().contiguous()

    def spectrum(self) -> Spectrum:
        """Its eigenvalues and eigenvectors, in float32."""
        with one_call(f"eigenvalues of {self._size}", len(self.matrix) > LARGE):
            values, vectors = torch.linalg.eigh(self.matrix)
        # Rounding leaves tiny negative eigenvalues of a matrix that has none.
        return Spectrum(values.clamp_min(0).float(), vectors.float().contiguous())


class Progress(NamedTuple):
    """Where a sum over rows is kept while it is made, so that it can go on after a kill.

    Attributes:
        read: how many rows are in it, and the sum; None if there is none.
        write: is told both, from time to time.
    """

    read: Callable[[], tuple[int, Float[Tensor, "k k"]] | None]
    write: Callable[[int, Float[Tensor, "k k"]], None]


def product(
    blocks: Blocks, k: int, device: str = "cpu", progress: Progress | None = None
) -> Float[Tensor, "k k"]:
    """Phi^T Phi of rows of k features; what stands right of its diagonal is for `mirrored`.

    Args:
        blocks, device, progress: as `gram`.
    """
    return where_there_is_room(lambda place: _lower(blocks, k, place, progress), device)


def gram(
    blocks: Blocks, n: int, k: int, device: str = "cpu", progress: Progress | None = None
) -> Gram:
    """The smaller of the two Gram matrices.

    Args:
        blocks: the n rows of features, some at a time, as often as it is called.
        n, k: rows and features; the matrix is n x n (dual) where n < k, else k x k.
        device: where the products are computed, or the CPU if that has too little memory.
        progress: keeps the matrix of k x k while it is made.

    Raises:
        ResourceError: it has no room in memory.

    >>> found = gram(lambda: torch.eye(2).split(1), 2, 2)
    >>> found.matrix.tolist(), found.dual
    ([[0.5, 0.0], [0.0, 0.5]], False)
    """
    require_room(min(n, k))
    with ProgressBar(desc="kernel", unit="shard") as bar:
        rows = _ticking(blocks, bar)

        def made(device: str) -> Float[Tensor, "m m"]:
            bar.update(-bar.done)  # where it is begun anew
            if n < k:
                return _dual_gram(rows, n, device)
            return mirrored(_lower(rows, k, device, progress))

        matrix = where_there_is_room(made, device)
    return Gram(matrix.div_(n), dual=n < k)


def require_room(size: int) -> None:
    """Refuse, before the rows are read, a matrix that this machine has no memory for.

    Raises:
        ResourceError: so it is.
    """
    room, needed = room_bytes(torch.device("cpu")), HELD * size**2
    if room is not None and needed > room:
        raise ResourceError(
            f"the kernel of {size:,} features takes {needed / 2**30:,.1f} GiB of memory, and this "
            f"machine has {room / 2**30:,.1f} free: build an index with a smaller --dim, or of "
            "ekfac, which needs no kernel"
        )


def where_there_is_room(made: Callable[[str], Tensor], device: str) -> Tensor:
    """What is made on a device, or on the CPU if that has too little memory."""
    try:
        return made(device).cpu()
    except RuntimeError as error:
        if device == "cpu" or not out_of_memory(error):
            raise
    return made("cpu")  # now that the error holds what is on the device no more


def downdated(
    whole: Float[Tensor, "k k"], count: int, left: int, removed: Iterable[Float[Tensor, "k k"]]
) -> Float[Tensor, "k k"]:
    """Phi^T Phi / n of the rows that are left, by that of all and products of those removed.

    Args:
        count, left: rows in all, and of these left.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 4.0]], dtype=torch.float64)
    >>> downdated(rows.T @ rows / 3, 3, 2, [rows[:1].T @ rows[:1]]).tolist()
    [[0.0, 0.0], [0.0, 10.0]]
    """
    total = whole * count
    for product in removed:
        total -= product
    return total / left


def inside_of(blocks: Blocks, inside: Bool[Tensor, " n"]) -> Blocks:
    """The rows that are inside, to make a Gram matrix of.

    >>> blocks = inside_of(lambda: torch.eye(3).split(2), torch.tensor([True, False, True]))
    >>> [block.shape[0] for block in blocks()]
    [1, 1]
    """

    def chosen() -> Iterator[Tensor]:
        for start, block in placed(blocks()):
            yield block[inside[start : start + len(block)]]

    return chosen


def _ticking(blocks: Blocks, bar: ProgressBar) -> Blocks:
    def ticking() -> Iterator[Tensor]:
        for block in blocks():
            yield block
            bar.update()

    return ticking


def _lower(blocks: Blocks, k: int, device: str, progress: Progress | None) -> Float[Tensor, "k k"]:
    """Phi^T Phi, strip by strip; nothing stands right of those at the diagonal."""
    done, found = (progress and progress.read()) or (0, torch.zeros(k, k, dtype=torch.float64))
    found, strips, kept = found.to(device), range(0, k, STRIP), time.monotonic()
    for start, rows in placed(blocks()):
        if start < done:  # to read them again is little beside their products
            continue
        block = rows.to(device)
        for at in strips:
            found[at:, at : at + STRIP] += (block[:, at:].T @ block[:, at : at + STRIP]).double()
        if progress is not None and time.monotonic() - kept > SAVE_EVERY:
            progress.write(start + len(rows), found)
            kept = time.monotonic()
    return found


def mirrored(lower: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """A symmetric matrix, in place, by what stands on its diagonal and left of it."""
    for at in range(0, len(lower), STRIP):
        end = at + STRIP
        lower[at:end, end:] = lower[end:, at:end].T
    return lower


def _dual_gram(blocks: Blocks, n: int, device: str) -> Float[Tensor, "n n"]:
    """Phi Phi^T with two blocks in memory at a time."""
    found = torch.zeros(n, n, dtype=torch.float64, device=device)
    for start, rows in placed(blocks()):
        own = rows.to(device)
        for other, columns in placed(blocks()):
            if other > start:
                break
            tile = (own @ columns.to(device).T).double()
            found[start : start + len(rows), other : other + len(columns)] = tile
            found[other : other + len(columns), start : start + len(rows)] = tile.T
    return found


def placed(blocks: Iterable[Tensor]) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)
