r"""Score rules: from a query's draws and the kernel to scores of training rows (METHODS section 5).

K = Phi^T Phi / n + lambda I. All rules are linear in a draw psi but for a last step, so scores are
kept draw by draw until that step: their spread is the answer's uncertainty. `RULES` is the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def dot(kernel: Kernel, psi: Tensor) -> Scored:
    """Psi . phi."""
    return Scored(kernel.dot(psi))


def cosine(kernel: Kernel, psi: Tensor) -> Scored:
    """Psi . phi on unit vectors, psi the mean over draws."""
    length = psi.mean(0).norm().clamp_min(TINY) * kernel.norms().clamp_min(TINY)
    return Scored(kernel.dot(psi) / length)


def trak(kernel: Kernel, psi: Tensor) -> Scored:
    """psi^T K^-1 phi."""
    return Scored(kernel.trak(psi))


def relative(kernel: Kernel, psi: Tensor) -> Scored:
    """psi^T K^-1 phi / ||K^-1 phi|| (Barshan 2020)."""
    return Scored(kernel.trak(psi) / kernel.solved_norms().clamp_min(TINY))


def renormalised(kernel: Kernel, psi: Tensor) -> Scored:
    """psi^T K^-1 phi / ||phi|| (Hammoudeh 2022)."""
    return Scored(kernel.trak(psi) / kernel.norms().clamp_min(TINY))


def das(residual: str, leverage: bool, square: str) -> Callable[[Kernel, Tensor], Scored]:
    """The rule of DAS eq. 18, (psi^T K^-1 phi r / (1 - h))^2, with its parts on or off.

    Args:
        residual: "over_time": the mean over probes of r_t / sqrt(sum r_t^2), r_t the root mean
            square error of the predicted noise (eq. 17); "loss": the mean squared error.
        leverage: whether to divide by 1 - h.
        square: "each": each draw's score is squared, then the mean is taken, which is the squared
            norm over output dimensions where draws are random outputs; "last": the mean is
            squared; "": not at all.
    """

    def rule(kernel: Kernel, psi: Tensor) -> Scored:
        assert kernel.residuals is not None, "das needs a path that draws noise"
        scores = kernel.trak(psi) * _residual(kernel.residuals, residual)
        if leverage:
            scores = scores / (1 - kernel.leverage())
        return Scored(scores.square() if square == "each" else scores, square == "last")

    return rule


def _residual(errors: Float[Tensor, "n p"], kind: str) -> Float[Tensor, " n"]:
    if kind == "loss":
        return errors.mean(1)
    return (errors.sqrt() / errors.sum(1, keepdim=True).sqrt().clamp_min(TINY)).mean(1)


@dataclass(frozen=True)
class Rule:
    """A row of the table: what scores, and whether it inverts the kernel, at some damping."""

    score: Callable[[Kernel, Tensor], Scored]
    inverts: bool = True


RULES = {
    "dot": Rule(dot, inverts=False),
    "cosine": Rule(cosine, inverts=False),
    "trak": Rule(trak),
    "relative": Rule(relative),
    "renormalised": Rule(renormalised),
    "das": Rule(das("over_time", leverage=True, square="each")),
    "das-l1": Rule(das("over_time", leverage=True, square="last")),
    # what the branch `DAS1squ` of the authors' code computes: no leverage
    "das-code": Rule(das("over_time", leverage=False, square="last")),
    "das-concept-trak": Rule(das("loss", leverage=False, square="")),
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


def mean_over_checkpoints(scored: Sequence[Scored]) -> Scored:
    """The mean over checkpoints, each with features and a kernel of its own.

    >>> mean_over_checkpoints([Scored(torch.ones(1, 2)), Scored(3 * torch.ones(1, 2))]).answer()
    tensor([[2., 2.]])
    """
    draws, squared = torch.stack([one.draws for one in scored]), scored[0].squared
    return Scored(draws if squared else draws.mean(0), squared)
