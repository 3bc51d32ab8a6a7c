"""Captions that say something else: a word exchanged, or put where others have such a word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import lru_cache
from typing import NamedTuple

from headwater.queries.words.prompts import contains, held_by, pattern_for, without

_LONGEST = 5  # words of what is put into a caption: "on a wavy background"
ARTICLES = {"an": "a"}  # one word: which of the two stands there is the next word's doing


def exchanged(text: str, words: str, other: str) -> str:
    """The text with other words in the place of these; an article before them follows.

    >>> exchanged("a red star", "red", "orange")
    'an orange star'
    """
    article = "n " if other[:1].casefold() in "aeiou" else " "
    before = _article_before(pattern_for(text, words).pattern)
    text = before.sub(rf"\1{article}", text)
    return pattern_for(text, words).sub(lambda _: other, text)


@lru_cache(maxsize=1024)
def _article_before(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b([Aa])n?\s+(?={pattern})")


class Insertions:
    """Where captions that name no value of a kind would name one: as others do that name one.

    "a red star" is "a star" with "red" between "a" and "star": so is "a star in the sky" made "a
    red star in the sky".

    Args:
        captions: of which to learn it.
        values: of the kind.

    >>> insert = Insertions(["a star in hatched style on a plain background"], ["hatched"])
    >>> insert("a star on a plain background", "dotted")
    'a star in dotted style on a plain background'
    >>> insert("stars", "dotted")
    'stars, dotted'
    """

    def __init__(self, captions: Iterable[str], values: Sequence[str]) -> None:
        known = dict.fromkeys(captions)
        plain = {_plain_words(caption) for caption in known}
        seen, likely = Counter[_Segment](), Counter[_Segment]()
        for caption in known:
            words = caption.split()
            for value in held_by(caption, values):
                seen.update(_segments(words, value, plain))
                likely.update(_segments(words, value, {_plain_words(without(caption, value))}))
        self._places: dict[tuple[str, str], _Segment] = {}
        for found in (seen, likely):  # two captions that differ in it are better than a grammar
            for each in sorted(found, key=lambda s: (len(s.text.split()), -found[s], s)):
                self._places.setdefault((each.left, each.right), each)

    def __call__(self, caption: str, value: str) -> str:
        """The caption with the value in it; behind a comma, where no caption shows its place."""
        words = ["", *caption.split(), ""]
        for place in range(1, len(words)):
            known = self._places.get((_plain(words[place - 1]), _plain(words[place])))
            if known is not None:
                text = " ".join([*words[1:place], known.text, *words[place:-1]])
                return exchanged(text, known.value, value)
        return f"{caption}, {value}" if caption.strip() else value


class _Segment(NamedTuple):
    """What stands between two words of a caption, with a value in it."""

    left: str
    right: str
    text: str
    value: str


def _segments(words: Sequence[str], value: str, rest: Set[tuple[str, ...]]) -> Iterator[_Segment]:
    """The segments of a caption with the value in it, without which it would be one of the rest."""
    plain = [_plain(word) for word in words]
    for length in range(1, _LONGEST + 1):
        for start in range(len(words) - length + 1):
            end = start + length
            if (*plain[:start], *plain[end:]) in rest:
                text = " ".join(words[start:end])
                if contains(text, value):
                    left, right = plain[start - 1] if start else "", "".join(plain[end : end + 1])
                    yield _Segment(left, right, text, value)


def _plain_words(text: str) -> tuple[str, ...]:
    return tuple(map(_plain, text.split()))


def _plain(word: str) -> str:
    """A word as a neighbour: case and which article it is do not matter."""
    word = word.casefold()
    return ARTICLES.get(word, word)
