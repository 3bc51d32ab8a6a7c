"""What a network reads beside x_t: a prompt's encoding, a mask, sizes, a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Named tensors with a row for each sample; which ones is the family's own matter.

    A row says the same in every batch: what is of several lengths is padded to one for all.

    >>> words = Condition({"words": torch.zeros(2, 77, 8), "label": torch.tensor([3, 4])})
    >>> len(words), len(words[[1]]), words[[1]].tensors["label"].tolist()
    (2, 1, [4])
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: slice | Sequence[int] | Int[Tensor, " b"]) -> Condition:
        """These rows."""
        rows = rows if isinstance(rows, (slice, Tensor)) else list(rows)
        return self._each(lambda tensor: tensor[rows])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Condition:
        """The same elsewhere, or in another type; whole numbers and masks keep theirs."""
        return self._each(
            lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None)
        )

    def repeated(self, count: int) -> Condition:
        """One row as `count` of them, of which no copy is made."""
        return self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def _each(self, function: Callable[[Tensor], Tensor]) -> Condition:
        return Condition({name: function(tensor) for name, tensor in self.tensors.items()})


def joined(parts: Sequence[Condition]) -> Condition:
    """The rows of several, one after the other."""
    names = parts[0].tensors
    return Condition({name: torch.cat([part.tensors[name] for part in parts]) for name in names})
