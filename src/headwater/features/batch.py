"""Tensors on their way through features: what goes in, and the rows that come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clean latents, the conditions of their prompts, and the ids that their noise belongs to."""

    x0: Float[Tensor, "b c h w"]
    condition: Float[Tensor, "b l e"] | None
    ids: Sequence[str] = ()

    def part(self, rows: Sequence[int]) -> Batch:
        """These rows of it."""
        rows = list(rows)
        condition = None if self.condition is None else self.condition[rows]
        return Batch(self.x0[rows], condition, [self.ids[row] for row in rows])


@dataclass(frozen=True)
class Rows:
    """Features of a batch, and the residual of each probe where noise was drawn."""

    features: Float[Tensor, "b k"]
    residuals: Float[Tensor, "b p"] | None = None
