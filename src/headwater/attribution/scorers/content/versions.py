"""A kind of words, and captions with each of them in the place of the one that they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.data.training_set import Sample
from headwater.queries.words.prompts import held_by, without
from headwater.queries.words.replacements import Insertions, exchanged


@dataclass(frozen=True)
class Kind:
    """The values that a word is told from.

    Attributes:
        values: the word among them; the word alone where it has no alternatives.
        source: where they come from, in words.
        places: words in whose place captions could have a value, but that are none: "shape", where
            objects are told apart.
    """

    values: tuple[str, ...]
    source: str
    places: tuple[str, ...] = ()

    def others(self, word: str) -> list[str]:
        """The alternatives of a word."""
        return [value for value in self.values if value != word]


@dataclass(frozen=True)
class Versions:
    """What images are to be captioned with, for one word.

    Attributes:
        own: the caption of each image.
        held: which values and places of the kind it holds.
        known: all captions there are.
    """

    kind: Kind
    word: str
    own: list[str]
    held: list[list[str]]
    known: Iterable[str]

    @classmethod
    def of(cls, resources: Resources, kind: Kind, word: str) -> Versions:
        words = (*kind.values, *kind.places)
        own = [caption_of(sample, words) for sample in resources.index.samples]
        held = [held_by(text, words) for text in own]
        return cls(kind, word, own, held, resources.captions)

    @cached_property
    def named(self) -> Bool[Tensor, "n v"]:
        """Whether each caption holds each value."""
        return torch.tensor([[v in names for v in self.kind.values] for names in self.held])

    @property
    def groups(self) -> list[list[int]]:
        """Rows that are computed together.

        Images whose caption names several values stand by themselves: which of these is exchanged
        depends on the word.
        """
        few = [row for row, names in enumerate(self.held) if len(names) <= 1]
        many = [row for row, names in enumerate(self.held) if len(names) > 1]
        return [rows for rows in (few, many) if rows]

    def texts(self, rows: Iterable[int]) -> list[list[str]]:
        """Of these images, `versions` of their captions."""
        values = self.kind.values
        return [
            versions(self.own[row], values, self.word, self.held[row], self._insert) for row in rows
        ]

    @cached_property
    def _insert(self) -> Insertions:
        return Insertions(self.known, (*self.kind.values, *self.kind.places))


def caption_of(sample: Sample, values: Sequence[str]) -> str:
    """The caption to change: the first that names a value, else the first."""
    return next((text for text in sample.all_captions if held_by(text, values)), sample.caption)


def versions(
    caption: str, values: Sequence[str], word: str, held: Sequence[str], insert: Insertions
) -> list[str]:
    """The caption with each value in the place of the one that it holds.

    Where it holds none, with each value put in; where it holds several, of those that are not the
    word the first is exchanged. Of a word without alternatives: the caption, and the same without
    the word, or, where it does not hold it, with it.
    """
    if len(values) == 1:
        return [caption, without(caption, word) if held else insert(caption, word)]
    if not held:
        return [insert(caption, value) for value in values]
    place = word if word in held else held[0]
    return [caption if v in held else exchanged(caption, place, v) for v in values]
