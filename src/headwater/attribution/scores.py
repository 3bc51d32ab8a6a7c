r"""Score rules: from a query's draws and the kernel to scores of training rows (METHODS section 5).

K = Phi^T Phi / n + lambda I. All rules are linear in a draw psi but for a last step, so scores are
kept draw by draw until that step: their spread is the answer's uncertainty. `RULES` is the table.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.kernel import Kernel
from headwater.gradients.vjp import TINY
from headwater.methods.row import Method


@dataclass(frozen=True)
class Scored:
    """Scores of each draw; an answer is their mean, squared first or last if so.

    Where the square comes last, several checkpoints keep their draws apart, [c, q, n]: an answer
    is the mean of theirs.

    >>> draws = torch.tensor([[1.0, -1.0], [3.0, -1.0]])  # of two images
    >>> Scored(draws).answer(), Scored(draws, squared=True).answer()
    (tensor([[ 2., -1.]]), tensor([[4., 1.]]))
    """

    draws: Float[Tensor, "*c q n"]
    squared: bool = False

    def answer(self, weights: Float[Tensor, "w q"] | None = None) -> Float[Tensor, "w n"]:
        """The mean over draws, or its like under each of some weights that sum to 1."""
        if weights is None:
            count = self.draws.shape[-2]
            weights = self.draws.new_full((1, count), 1 / count)
        mean = weights @ self.draws
        if self.squared:
            mean = mean.square()
        return mean if mean.ndim == 2 else mean.mean(0)


@dataclass(frozen=True)
class Rule:
    """psi^T phi_i, or psi^T K^-1 phi_i, times a number of each image; squared, or not.

    Args:
        inverts: whether K is inverted, at some damping.
        over: what of an image it is divided by: "norms" (||phi||) or "solved_norms" (||K^-1 phi||).
        unit: whether the mean over draws of psi is divided by its norm.
        residual: of DAS eq. 17, "over_time": times the mean over probes of r_t / sqrt(sum r_t^2),
            r_t the root mean square error of the predicted noise; "loss": times the mean squared
            error.
        leverage: whether it is divided by 1 - h.
        square: "each": each draw's score is squared, then the mean is taken, which is the squared
            norm over output dimensions where draws are random outputs; "last": the mean is
            squared; "": not at all.
    """

    inverts: bool = True
    over: str = ""
    unit: bool = False
    residual: str = ""
    leverage: bool = False
    square: str = ""

    def score(
        self, kernel: Kernel, psi: Float[Tensor, "q k"], ratios: Sequence[float]
    ) -> dict[float, Scored]:
        """Scores by a question's draws at each damping."""
        return self.score_all(kernel, [psi], ratios)[0]

    def score_all(
        self, kernel: Kernel, questions: Sequence[Float[Tensor, "_ k"]], ratios: Sequence[float]
    ) -> list[dict[float, Scored]]:
        """The same of several questions, in one pass over the rows."""
        psi = torch.cat(list(questions))
        products = kernel.trak(psi, ratios) if self.inverts else kernel.dot(psi)[None]
        each = products.expand(len(ratios), *products.shape[1:])
        parts = each.split([len(rows) for rows in questions], 1)
        return [
            {r: self.finish(kernel, own, rows, r) for r, own in zip(ratios, part, strict=True)}
            for rows, part in zip(questions, parts, strict=True)
        ]

    def finish(self, kernel: Kernel, scores: Tensor, psi: Tensor, ratio: float) -> Scored:
        """The products of a question's draws with all rows, [q, n], as scores."""
        factor = unchanged = torch.ones(())
        if self.over:
            own = kernel.norms() if self.over == "norms" else kernel.solved_norms(ratio)
            factor = factor / own.clamp_min(TINY)
        if self.unit:
            factor = factor / psi.mean(0).norm().clamp_min(TINY)
        if self.residual:
            errors = kernel.residuals()
            assert errors is not None, "das needs a path that draws noise"
            factor = factor * _residual(errors, self.residual)
        if self.leverage:
            factor = factor / (1 - kernel.leverage(ratio))
        if factor is not unchanged:
            scores = scores * factor
        return Scored(scores.square() if self.square == "each" else scores, self.square == "last")


def _residual(errors: Float[Tensor, "n p"], kind: str) -> Float[Tensor, " n"]:
    if kind == "loss":
        return errors.mean(1)
    return (errors.sqrt() / errors.sum(1, keepdim=True).sqrt().clamp_min(TINY)).mean(1)


RULES = {
    "dot": Rule(inverts=False),
    "cosine": Rule(inverts=False, over="norms", unit=True),
    "trak": Rule(),
    "relative": Rule(over="solved_norms"),  # Barshan 2020
    "renormalised": Rule(over="norms"),  # Hammoudeh 2022
    "das": Rule(residual="over_time", leverage=True, square="each"),  # DAS eq. 18
    "das-l1": Rule(residual="over_time", leverage=True, square="last"),
    # what the branch `DAS1squ` of the authors' code computes: no leverage
    "das-code": Rule(residual="over_time", square="last"),
    "das-concept-trak": Rule(residual="loss"),
}


def inverts_kernel(rule: str) -> bool:
    """Whether a method's rule has a damping; scorers with a rule of their own have none.

    >>> inverts_kernel("trak"), inverts_kernel("dot"), inverts_kernel("unlearning")
    (True, False, False)
    """
    return rule in RULES and RULES[rule].inverts


def has_damping(method: Method) -> bool:
    """Whether a method's scores depend on a damping: of a kernel, or of a curvature."""
    return inverts_kernel(method.rule) or bool(method.curvature)


def joined(first: Scored, more: Scored) -> Scored:
    """Scores of some draws and of more.

    >>> joined(Scored(torch.ones(1, 2)), Scored(torch.zeros(3, 2))).draws.shape[0]
    4
    """
    return Scored(torch.cat([first.draws, more.draws], -2), first.squared)


def without_own(scored: Scored, rows: Sequence[Collection[int]]) -> Scored:
    """Scores of draws on pictures of training images, without an image's by draws on its own.

    In their place stands the mean of the image's m scores by the other draws, so that its mean over
    all q draws is that over the others; 0 where all are its own. The others are spread about it by
    q / m: the mean over resampled draws scatters then as that of m draws does.

    Args:
        rows: of each draw the images that it is asked on; empty where it is asked on none.

    >>> scores = Scored(torch.tensor([[9.0, 1.0], [2.0, 9.0], [4.0, 3.0]]))
    >>> without_own(scores, [{0}, {1}, {1}]).draws
    tensor([[3.0000, 1.0000],
            [1.5000, 1.0000],
            [4.5000, 1.0000]])
    """
    draws = scored.draws.clone() if len(rows) else scored.draws
    for row in set().union(*rows):
        own = torch.tensor([row in each for each in rows])
        others = draws[..., ~own, row]
        count = max(1, others.shape[-1])
        mean = others.sum(-1, keepdim=True) / count
        draws[..., ~own, row] = mean + (others - mean) * (len(own) / count)
        draws[..., own, row] = mean
    return Scored(draws, scored.squared)


def mean_over_checkpoints(scored: Sequence[Scored]) -> Scored:
    """The mean over checkpoints, each with features and a kernel of its own.

    >>> mean_over_checkpoints([Scored(torch.ones(1, 2)), Scored(3 * torch.ones(1, 2))]).answer()
    tensor([[2., 2.]])
    """
    draws, squared = torch.stack([one.draws for one in scored]), scored[0].squared
    return Scored(draws if squared else draws.mean(0), squared)
