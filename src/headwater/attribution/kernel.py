r"""The kernel K = Phi^T Phi / n + lambda I, by one Gram matrix G.

One damping is a Cholesky factor of G + lambda I. Several at once are an eigendecomposition of G,
which takes a dozen times as long and then serves any.

With n < k the kernel has rank n at most and its primal inverse is numerically wrong in float32;
the dual form uses G = Phi Phi^T / n instead:  K^-1 Phi^T = Phi^T (G + lambda I)^-1.

What is asked of all rows is a measure of a block of them, which whoever reads them computes: this
process, or workers (`attribution.passes`).

Rows may stand outside: the kernel is then of the others, and scores all. A row inside is shrunk by
its own part in K, to s = (1 - h) s' with s' its score by a kernel without it and h its leverage
(Sherman-Morrison); one outside is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwater.attribution.gram import Blocks, Gram, Inverse, Spectrum, gram, inside_of, placed

# Keeps a number of each row by its name and damping, and computes it where it is not kept.
Keep = Callable[[str, float, Callable[[], Float[Tensor, " n"]]], Float[Tensor, " n"]]


# Of a block of rows, and of what else it is handed: numbers of each row, the rows last.
Measure = Callable[..., Float[Tensor, "*q r"]]
# A measure of all rows: takes it, and what it is handed.
Each = Callable[..., Float[Tensor, "*q n"]]


def computed(name: str, ratio: float, compute: Callable[[], Tensor]) -> Tensor:
    """Keeps nothing."""
    return compute()


def over(blocks: Blocks, n: int, measure: Measure, *handed: Tensor) -> Float[Tensor, "*q n"]:
    """A measure of all n rows, by this process, on the device that they are on; on the CPU then.

    >>> over(lambda: torch.eye(3).split(2), 3, row_norms)
    tensor([1., 1., 1.])
    """
    found, done, there = torch.empty(0), 0, list(handed)
    for block in blocks():
        there = [each.to(block.device) for each in there]
        own = measure(block, *there).cpu()
        if not done:  # in place: numbers of many rows, draws and dampings are large
            found = own.new_empty(*own.shape[:-1], n)
        found[..., done : done + len(block)] = own
        done += len(block)
    assert done == n, f"{n} rows were promised, {done} are there"
    return found


def row_dots(rows: Float[Tensor, "r k"], psi: Float[Tensor, "q k"]) -> Float[Tensor, "q r"]:
    """Psi . phi_i."""
    return (rows @ psi.T).T


def row_norms(rows: Float[Tensor, "r k"]) -> Float[Tensor, " r"]:
    """||phi_i||."""
    return rows.norm(dim=1)


def row_solved_norms(
    rows: Float[Tensor, "r k"], factor: Float[Tensor, "k k"]
) -> Float[Tensor, " r"]:
    """||K^-1 phi_i||, by K's Cholesky factor."""
    return Inverse(factor).times(rows.T).T.norm(dim=1)


def row_leverages(rows: Float[Tensor, "r k"], factor: Float[Tensor, "k k"]) -> Float[Tensor, " r"]:
    """phi_i^T K^-1 phi_i, which is n h_i, by K's Cholesky factor."""
    return Inverse(factor).half(rows.T).square().sum(0)


@dataclass(frozen=True)
class Kernel:
    """K of training rows, and what score rules ask of it and of all rows.

    A damping is given relatively, as a multiple of the mean eigenvalue of Phi^T Phi / n.

    Attributes:
        blocks: the rows phi_i, some at a time.
        each: a measure of all of them.
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
    each: Each
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
        return self.each(row_dots, psi)

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
        for start, block in placed(own()):
            within += weights[:, start : start + len(block)].mT @ block.double()
        gram = self.gram()
        dampings = torch.tensor([gram.damping(ratio) for ratio in ratios])[:, None, None]
        return ((rows.double() - within / self.count) / dampings).to(rows)

    def norms(self) -> Float[Tensor, " n"]:
        """||phi_i||."""
        return self.keep("norms", 0, lambda: self.each(row_norms))

    def solved_norms(self, ratio: float) -> Float[Tensor, " n"]:
        """||K^-1 phi_i||."""

        def compute() -> Tensor:
            if self.dual and self.inside is not None:
                rows = len(self.inside)
                return over(self.blocks, rows, lambda own: self.solved(own, [ratio])[0].norm(dim=1))
            if self.dual:  # e_i^T A n G A e_i, A the inverse of G + lambda
                matrix, inverse = self.gram().matrix, self.inverse(ratio).whole()
                return (self.count * ((inverse @ matrix) * inverse).sum(1)).sqrt().float()
            return self.each(row_solved_norms, self.inverse(ratio).factor)

        return self.keep("solved norms", ratio, compute)

    def leverage(self, ratio: float) -> Float[Tensor, " n"]:
        """h_i = phi_i^T K^-1 phi_i / n, between 0 and 1; 0 of rows outside, which have no part."""

        def compute() -> Tensor:
            if self.dual:
                own = (self.gram().matrix * self.inverse(ratio).whole()).sum(1).float()
                if self.inside is None:
                    return own
                return own.new_zeros(len(self.inside)).masked_scatter(self.inside, own)
            own = self.each(row_leverages, self.inverse(ratio).factor) / self.count
            return own if self.inside is None else own * self.inside

        return self.keep("leverage", ratio, compute)


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
    made = (lambda: found), inverse, found.spectrum
    each = partial(over, blocks, n if inside is None else len(inside))
    return Kernel(blocks, each, n, found.dual, *made, *more)
