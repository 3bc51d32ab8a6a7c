"""Captions that are classes: by a label that the pipeline knows, or by a number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import MethodError, QueryError
from headwater.models.condition import Condition


class Labels:
    """The words of a network that reads classes; see `family.Words`.

    Args:
        network: it.
        count: how many classes there are.
        labels: label -> class.
        empty: the class of the empty prompt, which stands for none; None if there is none.
    """

    encoders: Sequence[nn.Module] = ()
    token_limit: int = 1

    def __init__(
        self, network: nn.Module, count: int, labels: Mapping[str, int], empty: int | None = None
    ) -> None:
        self._network, self._count, self._labels = network, count, labels
        self._empty = empty

    def encode(self, texts: Sequence[str]) -> Condition:
        """The class that each text names.

        Raises:
            QueryError: one is of no class, or it is empty and the network has no class for that.
        """
        device = next(self._network.parameters()).device
        classes = [self._class_of(text.strip()) for text in texts]
        return Condition({"class_labels": torch.tensor(classes, device=device)})

    def names(self) -> Collection[str]:
        """All labels."""
        return self._labels.keys()

    def cut(self, texts: Iterable[str]) -> dict[str, tuple[str, str]]:
        """None is cut."""
        return {}

    def initial(self, text: str) -> Float[Tensor, " e"]:
        """No word can be taught to it.

        Raises:
            MethodError: says so.
        """
        self._refuse_words()

    def scale(self) -> float:
        """No word can be taught to it.

        Raises:
            MethodError: says so.
        """
        self._refuse_words()

    def reader(
        self, name: str, vector: Float[Tensor, " e"]
    ) -> AbstractContextManager[Callable[[Sequence[str]], Condition]]:
        """No word can be taught to it.

        Raises:
            MethodError: says so.
        """
        self._refuse_words()

    def _class_of(self, text: str) -> int:
        number = self._labels.get(text)
        if number is None and text.isdecimal():
            number = int(text)
        if not text and self._empty is not None:
            return self._empty
        if number is not None and number < self._count:
            return number
        kind = type(self._network).__name__
        if not text:
            raise QueryError(
                f"{kind} has no class for an empty prompt: give a prompt that names a class, and "
                "--guidance 1, or a --minus that names another"
            )
        few = ", ".join(map(repr, list(self._labels)[:5])) + (", ..." * (len(self._labels) > 5))
        known = f"one of {few}, or a number" if self._labels else "a number"
        raise QueryError(
            f"{text[:60]!r} is no class of {kind}: give {known} from 0 to {self._count - 1}"
        )

    def _refuse_words(self) -> NoReturn:
        raise MethodError(
            f"{type(self._network).__name__} reads classes and no words, so none can be learned "
            "from a picture: ask without --local"
        )
