"""What every question has, and what it becomes when it is made ready for a method.

A question describes itself: its kind, its words, its part of the JSON answer, what to show for it.
It never receives an index; what it needs of one is handed to it as a `Setting`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import PIL.Image

from headwater.data.training_set import TrainingSet
from headwater.errors import QueryError
from headwater.features.extractor import Extractor
from headwater.features.objectives import Objective
from headwater.features.spec import Side
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture


class Name(NamedTuple):
    """What was asked for, in a sentence; `quoted`: whether these are words of the user."""

    words: str
    quoted: bool = True


class Description(NamedTuple):
    """How a question is asked: words that go on from "asked", and the same for provenance."""

    words: str
    facts: Mapping[str, Any]


class Figure(NamedTuple):
    """A picture that stands for a question; of a part, `mask` is white where it was asked about."""

    caption: str
    image: PIL.Image.Image
    mask: PIL.Image.Image | None = None


@runtime_checkable
class Pictured(Protocol):
    """What a picture belongs to: a question, or what is shown for one."""

    def picture_facts(self) -> Mapping[str, Any]:
        """All that the picture depends on besides the model, as JSON; files by their contents."""
        ...

    def picture(self, denoiser: Denoiser) -> Picture:
        """The picture, made or opened, with its latents."""
        ...


@dataclass(frozen=True)
class Setting:
    """What an index hands to a question that is made ready for one method.

    Attributes:
        method: its name, for errors.
        side: what it asks of a question of this kind; an inversion with the index's guidance.
        captions: of the training images.
        timesteps: of the index's probes.
        picture: what is pictured -> its picture, made once.
        cache: folder that keeps what is learned for questions.
        images: the training images, of a method that scores a question draw by draw: an image on
            whose picture a draw is asked need not be scored by it. None of others.
    """

    method: str
    side: Side
    captions: Iterable[str]
    timesteps: tuple[int, ...]
    picture: Callable[[Pictured], Picture]
    cache: Path
    images: TrainingSet | None = None


@runtime_checkable
class Drawer(Protocol):
    """A question made ready: what to ask at any of its draws.

    Attributes:
        title: what is asked for, in a word or two.
        limit: how many draws make sense; a path without noise has one.
        once: why there is one draw, in words; "" where there are several.
        training_rows: of each draw the rows of the training images on whose pictures it is asked,
            of more draws than are made. Empty where it is asked on none.
    """

    @property
    def title(self) -> str: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def once(self) -> str: ...
    @property
    def training_rows(self) -> Sequence[Collection[int]]: ...

    def describe(self, draws: int) -> Description:
        """How it is asked with so many draws."""
        ...

    def key(self, draws: range) -> Mapping[str, Any]:
        """All that these rows depend on besides the index, as JSON takes it; "type" is its kind."""
        ...

    def check(self, denoiser: Denoiser) -> Sequence[str]:
        """Refuse what this model cannot be asked; what the reader of an answer must know of it.

        Raises:
            MethodError, QueryError: it cannot.
        """
        ...

    def probes(self, extractor: Extractor) -> int:
        """How many probes each draw has."""
        ...

    def objectives(self, extractor: Extractor, draws: Sequence[int]) -> Iterator[Objective]:
        """What is asked at each probe of these draws, a batch of `len(draws)`."""
        ...


class Question:
    """What can be asked; the base of every kind of question.

    Attributes:
        kind: a key of `methods.row.QUESTIONS`.
        title: what is asked for, in a word or two.
        prompt: the prompt that the user has in mind; "" for none.
        seed: of the picture that is shown, and of the draws.
        draws: how many; None for as many as a stable top ten needs.
    """

    kind: str
    title: str
    prompt: str
    seed: int
    draws: int | None

    def drawer(self, setting: Setting) -> Drawer:
        """The question, ready to be asked by a method of gradients.

        Raises:
            MethodError, QueryError: it cannot be asked so.
        """
        raise QueryError(f"{type(self).__name__} cannot be asked by gradients of the model")

    def name(self) -> Name:
        """What was asked for, as it stands in a sentence."""
        return Name(self.title)

    def facts(self) -> Mapping[str, Any]:
        """Its own entries of the JSON answer."""
        return {"title": self.title}

    def likeness(self) -> str | Pictured:
        """What training images can be like: words, or a picture.

        Raises:
            QueryError: neither.
        """
        return self.title

    def figures(
        self, picture: Picture, denoiser: Callable[[], Denoiser], side: Side | None
    ) -> list[Figure]:
        """The pictures to show, with a caption each where there are several.

        Args:
            picture: that stands for the question.
            denoiser: loads the model, if one must be drawn.
            side: what the method asked of it.
        """
        return [Figure("", picture.image)]


def require_text(**values: Any) -> None:
    """Refuse words that are no text, by the name that they were given under.

    Raises:
        QueryError: names the argument, the value and its type.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            raise QueryError(f"{name} {value!r} is a {type(value).__name__}: give text")


def require_draws(draws: int | None) -> None:
    """Refuse a number of draws that is none.

    Raises:
        QueryError: it is no whole number, or less than 1.
    """
    if draws is not None and not isinstance(draws, int):
        raise QueryError(
            f"draws {draws!r} is a {type(draws).__name__}: give a whole number, or None for as "
            "many as a stable top ten needs"
        )
    if draws is not None and draws < 1:
        raise QueryError(f"--draws {draws} must be at least 1, or auto")
