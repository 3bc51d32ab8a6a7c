"""What a network reads beside x_t: a prompt's encoding, a mask, sizes, a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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

    Attributes:
        tensors: by name.
        texts: what each row says; empty where nobody asks for the graph of an encoding.
        encode: what makes a condition of texts, with its graph.
    """

    tensors: Mapping[str, Tensor]
    texts: tuple[str, ...] = ()
    encode: Callable[[Sequence[str]], Condition] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: slice | Sequence[int] | Int[Tensor, " b"]) -> Condition:
        """These rows."""
        rows = rows if isinstance(rows, (slice, Tensor)) else list(rows)
        chosen = range(len(self.texts))[rows] if isinstance(rows, slice) else rows
        texts = tuple(self.texts[row] for row in chosen) if self.texts else ()
        return replace(self._each(lambda tensor: tensor[rows]), texts=texts)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Condition:
        """The same elsewhere, or in another type; whole numbers and masks keep theirs."""
        return self._each(
            lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None)
        )

    def repeated(self, count: int) -> Condition:
        """One row as `count` of them, of which no copy is made."""
        rows = self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))
        return replace(rows, texts=self.texts * count)

    def with_graph(self) -> Condition:
        """The same, encoded once more: those tensors that then have a graph, in place of these."""
        if not self.texts or self.encode is None:
            return self
        again = self.encode(self.texts).tensors
        alive = {
            name: again[name].to(tensor)
            for name, tensor in self.tensors.items()
            if again[name].requires_grad
        }
        return replace(self, tensors={**self.tensors, **alive})

    def _each(self, function: Callable[[Tensor], Tensor]) -> Condition:
        tensors = {name: function(tensor) for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors)


def joined(parts: Sequence[Condition]) -> Condition:
    """The rows of several, one after the other."""
    first = parts[0]
    tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in first.tensors}
    return Condition(tensors, tuple(text for part in parts for text in part.texts), first.encode)


def encoded_once(
    texts: Sequence[str], encode: Callable[[Sequence[str]], Condition], batch: int = 64
) -> Condition:
    """What `encode` makes of texts, each different one once, so many at a time."""
    unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    rows = list(unique)
    encoded = joined([encode(rows[i : i + batch]) for i in range(0, len(rows), batch)])
    return encoded[[unique[text] for text in texts]]
