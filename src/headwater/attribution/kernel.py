r"""The kernel K = Phi^T Phi / n + lambda I, by one Gram matrix G.

One damping is a Cholesky factor of G + lambda I. Several at once are an eigendecomposition of G,
which takes a dozen times as long and then serves any.

With n < k the kernel has rank n at most and its primal inverse is numerically wrong in float32;
the dual form uses G = Phi Phi^T / n instead:  K^-1 Phi^T = Phi^T (G + lambda I)^-1.

Rows may stand outside: the kernel is then of the others, and scores all. A row inside is shrunk by
its own part in K, to s = (1 - h) s' with s' its score by a kernel without it and h its leverage
(Sherman-Morrison); one outside is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from headwater.errors import NonFiniteError

Blocks = Callable[[], Iterable[Float[Tensor, "r k"]]]
# Keeps a number of each row by its name and damping, and computes it where it is not kept.
Keep = Callable[[str, float, Callable[[], Float[Tensor, " n"]]], Float[Tensor, " n"]]


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

    def factor(self, ratio: float) -> Float[Tensor, "m m"]:
        """The Cholesky factor of G + lambda I, in float32.

        Raises:
            NonFiniteError: there is none: features are zero or not finite, or lambda is too small.
        """
        damped = self.matrix.clone()
        damped.diagonal().add_(self.damping(ratio))
        factor, wrong = torch.linalg.cholesky_ex(damped)
        if wrong or not factor.diagonal().isfinite().all():
            raise NonFiniteError(f"the kernel has no inverse at --damping {ratio:g}: raise it")
        # Laid out as it is when read back, so that products with it round alike.
        return factor.float().contiguous()

    def spectrum(self) -> Spectrum:
        """Its eigenvalues and eigenvectors, in float32."""
        size = len(self.matrix)
        what = f"eigenvalues of {size} x {size}"
        with tqdm(desc=what, bar_format="{desc}", delay=2, leave=False) as bar:
            if size > 2_000:  # minutes for 8,192 on a few cores, in one call that tells nothing
                bar.refresh()
            values, vectors = torch.linalg.eigh(self.matrix)
        # Rounding leaves tiny negative eigenvalues of a matrix that has none.
        return Spectrum(values.clamp_min(0).float(), vectors.float().contiguous())


def computed(name: str, ratio: float, compute: Callable[[], Tensor]) -> Tensor:
    """Keeps nothing."""
    return compute()


def gram(blocks: Blocks, n: int, k: int) -> Gram:
    """The smaller of the two Gram matrices.

    Args:
        blocks: the n rows of features, some at a time, as often as it is called.
        n, k: rows and features; the matrix is n x n (dual) where n < k, else k x k.

    >>> found = gram(lambda: torch.eye(2).split(1), 2, 2)
    >>> found.matrix.tolist(), found.dual
    ([[0.5, 0.0], [0.0, 0.5]], False)
    """
    with tqdm(desc="kernel", unit="shard", delay=2, leave=False) as bar:
        made = (_dual_gram if n < k else _primal_gram)(_ticking(blocks, bar), min(n, k))
    return Gram(made.div_(n), dual=n < k)


def inside_of(blocks: Blocks, inside: Bool[Tensor, " n"]) -> Blocks:
    """The rows that are inside, to make a Gram matrix of.

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
    found = torch.zeros(k, k, dtype=torch.float64)
    for block in blocks():
        found += (block.T @ block).double()
    return found


def _dual_gram(blocks: Blocks, n: int) -> Float[Tensor, "n n"]:
    """Phi Phi^T with two blocks in memory at a time."""
    found = torch.zeros(n, n, dtype=torch.float64)
    for start, rows in _placed(blocks()):
        for other, columns in _placed(blocks()):
            if other > start:
                break
            tile = (rows @ columns.T).double()
            found[start : start + len(rows), other : other + len(columns)] = tile
            found[other : other + len(columns), start : start + len(rows)] = tile.T
    return found


def _placed(blocks: Iterable[Tensor]) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)


@dataclass(frozen=True)
class Kernel:
    """K of training rows, and what score rules ask of it and of all rows.

    A damping is given relatively, as a multiple of the mean eigenvalue of Phi^T Phi / n.

    Attributes:
        blocks: the rows phi_i, some at a time.
        count: n, the rows inside.
        dual: whether G is Phi Phi^T / n.
        gram: makes G of the rows inside, for rules that need K.
        inverse: relative damping -> (G + lambda I)^-1.
        spectrum: makes the spectrum of G, for several dampings at once.
        residuals: reads the mean squared errors of each row's probes; None where none was drawn.
        inside: of each row whether K is made of it; None: it is of all.
        keep: keeps numbers of rows that take a pass over them.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # Phi^T Phi / n has eigenvalues 0.5 and 2
    >>> kernel = kernel_of(lambda: [rows], 2, 2)
    >>> kernel.trak(torch.tensor([[1.0, 1.0]]), [1.0])  # 1 / (0.5 + 1.25) and 2 / (2 + 1.25)
    tensor([[[0.5714, 0.6154]]])
    """

    blocks: Blocks
    count: int
    dual: bool
    gram: Callable[[], Gram]
    inverse: Callable[[float], Inverse]
    spectrum: Callable[[], Spectrum]
    residuals: Callable[[], Float[Tensor, "n p"] | None] = lambda: None
    inside: Bool[Tensor, " n"] | None = None
    keep: Keep = computed

    def dot(self, psi: Float[Tensor, "q k"]) -> Float[Tensor, "q n"]:
        """Psi . phi_i."""
        return torch.cat([(block @ psi.T).T for block in self.blocks()], 1)

    def trak(self, psi: Float[Tensor, "q k"], ratios: Sequence[float]) -> Float[Tensor, "d q n"]:
        """psi^T K^-1 phi_i at each damping, in one pass over the rows.

        Higher is a proponent: training on i moves the model to the query.
        """
        own = self._own(psi, ratios) if self.dual else None
        if own is not None and self.inside is None:
            return own
        asked = self.solved(psi, ratios)
        scores = self.dot(asked.flatten(0, 1)).unflatten(0, asked.shape[:2])
        if own is not None:
            scores[:, :, self.inside] = own[:, :, self.inside]
        return scores

    def _own(self, psi: Tensor, ratios: Sequence[float]) -> Float[Tensor, "d q n"]:
        """The same of the rows inside, of the dual form; of others anything."""
        products = self.dot(psi)
        found = torch.zeros(len(ratios), *products.shape)
        inside = slice(None) if self.inside is None else self.inside
        found[:, :, inside] = self._times(products[:, inside].T, ratios).mT
        return found

    def _times(
        self, columns: Float[Tensor, "m q"], ratios: Sequence[float]
    ) -> Float[Tensor, "d m q"]:
        """(G + lambda I)^-1 times these at each damping."""
        if len(ratios) == 1:
            return self.inverse(ratios[0]).times(columns)[None]
        spectrum = self.spectrum()
        return torch.stack([spectrum.solved(columns, ratio) for ratio in ratios])

    def solved(self, rows: Float[Tensor, "q k"], ratios: Sequence[float]) -> Float[Tensor, "d q k"]:
        """K^-1 of any rows at each damping.

        In the dual form (x - Phi^T (G + lambda)^-1 Phi x / n) / lambda (Woodbury).
        """
        if not self.dual:
            return self._times(rows.T, ratios).mT
        own = self.blocks if self.inside is None else inside_of(self.blocks, self.inside)
        products = torch.cat([block.double() @ rows.double().T for block in own()])  # [n, q]
        weights = self._times(products, ratios)
        within = torch.zeros(len(ratios), *rows.shape, dtype=torch.float64)
        for start, block in _placed(own()):
            within += weights[:, start : start + len(block)].mT @ block.double()
        gram = self.gram()
        dampings = torch.tensor([gram.damping(ratio) for ratio in ratios])[:, None, None]
        return ((rows.double() - within / self.count) / dampings).to(rows)

    def norms(self) -> Float[Tensor, " n"]:
        """||phi_i||."""
        return self.keep("norms", 0, lambda: self._each(lambda block: block.norm(dim=1)))

    def solved_norms(self, ratio: float) -> Float[Tensor, " n"]:
        """||K^-1 phi_i||."""

        def compute() -> Tensor:
            if self.dual and self.inside is None:  # e_i^T A n G A e_i, A the inverse of G + lambda
                matrix, inverse = self.gram().matrix, self.inverse(ratio).whole()
                return (self.count * ((inverse @ matrix) * inverse).sum(1)).sqrt().float()
            return self._each(lambda block: self.solved(block, [ratio])[0].norm(dim=1))

        return self.keep("solved norms", ratio, compute)

    def leverage(self, ratio: float) -> Float[Tensor, " n"]:
        """h_i = phi_i^T K^-1 phi_i / n, between 0 and 1; 0 of rows outside, which have no part."""

        def compute() -> Tensor:
            if self.dual:
                own = (self.gram().matrix * self.inverse(ratio).whole()).sum(1).float()
                if self.inside is None:
                    return own
                return own.new_zeros(len(self.inside)).masked_scatter(self.inside, own)
            inverse = self.inverse(ratio)
            own = self._each(lambda block: inverse.half(block.T).square().sum(0)) / self.count
            return own if self.inside is None else own * self.inside

        return self.keep("leverage", ratio, compute)

    def _each(self, compute: Callable[[Tensor], Tensor]) -> Float[Tensor, " n"]:
        return torch.cat([compute(block) for block in self.blocks()])


def kernel_of(
    blocks: Blocks,
    n: int,
    k: int,
    residuals: Float[Tensor, "n p"] | None = None,
    inside: Bool[Tensor, " n"] | None = None,
) -> Kernel:
    """The kernel of rows in memory, of which n are inside."""
    found = gram(blocks if inside is None else inside_of(blocks, inside), n, k)

    def inverse(ratio: float) -> Inverse:
        return Inverse(found.factor(ratio))

    more = (lambda: residuals), inside
    return Kernel(blocks, n, found.dual, lambda: found, inverse, found.spectrum, *more)
