"""What every question has, and what a question that brings its own guidance has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from headwater.errors import QueryError
from headwater.features.extractor import Extractor
from headwater.features.objectives import Asked
from headwater.models.denoiser import Denoiser

# How a question is asked, in words that go on from "asked", and the same for provenance.
Said = tuple[str, Mapping[str, Any]]


@runtime_checkable
class Drawer(Protocol):
    """A question, ready to be asked at any draw.

    Attributes:
        title: what is asked for, in a word or two.
        limit: how many draws make sense; a path without noise has one.
    """

    @property
    def title(self) -> str: ...

    @property
    def limit(self) -> int | None: ...

    def key(self, draws: range) -> Mapping[str, Any]:
        """All that these rows depend on besides the index, as JSON takes it; "type" is its kind."""
        ...

    def asked(self, machine: Extractor, draws: Sequence[int]) -> Iterator[Asked]:
        """What is asked at each probe of these draws, a batch of `len(draws)`."""
        ...

    def probes(self, machine: Extractor) -> int:
        """How many probes each draw has."""
        ...


@runtime_checkable
class Question(Protocol):
    """What can be asked.

    Attributes:
        kind: a key of `methods.QUESTIONS`.
        title: what is asked for, in a word or two.
        prompt: the prompt that the user has in mind; "" for none.
        seed: of the picture that is shown, and of the draws.
        draws: how many; None for as many as a stable top ten needs.
    """

    @property
    def kind(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def draws(self) -> int | None: ...


@runtime_checkable
class Guided(Question, Protocol):
    """A question that brings its own guidance: a reward, preferences, a local concept."""

    @property
    def description(self) -> str:
        """How it is asked, to go on from "asked"."""
        ...

    def details(self) -> Mapping[str, Any]:
        """The same for provenance, as JSON takes it."""
        ...

    def drawer(self, denoiser: Denoiser) -> Drawer:
        """The question, ready to be asked of this model."""
        ...


def require_draws(draws: int | None) -> None:
    """Refuse a number of draws that is none.

    Raises:
        QueryError: it is less than 1.
    """
    if draws is not None and draws < 1:
        raise QueryError(f"--draws {draws} must be at least 1, or auto")
