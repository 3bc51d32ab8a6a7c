"""A concept as a set of contexts: pairs (c+, c-) of prompts that differ in it alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.errors import HeadwaterWarning, QueryError
from headwater.features.spec import MOST_DRAWS
from headwater.queries.draws import without_repeats
from headwater.queries.words.prompts import contains, without
from headwater.queries.words.word_forms import inflections

if TYPE_CHECKING:
    from headwater.queries.concept import Concept

# With fewer captions than this that name the concept, `auto` asks for the bare words.
MIN_CONTEXTS = 3
NAMED_CONTEXTS = ("auto", "prompt", "bare")  # any other is a file


@dataclass(frozen=True)
class Contexts:
    """One (c+, c-) pair for every draw, and where they came from, in words."""

    kind: str
    pairs: tuple[tuple[str, str], ...]
    where: str

    @property
    def words(self) -> str:
        """How a concept is asked for in them, to go on from "asked"."""
        many = self.kind in ("captions", "file")
        return f"over {len(set(self.pairs))} {self.where}" if many else self.where

    @property
    def distinct(self) -> list[tuple[str, str]]:
        """Each pair once."""
        return list(dict.fromkeys(self.pairs))

    def first(self, draws: int) -> Contexts:
        """Those of so many draws."""
        return replace(self, pairs=self.pairs[:draws])


def choose_contexts(query: Concept, captions: Iterable[str]) -> Contexts:
    """Choose the contexts of a concept, one for every draw that it may need.

    A minus given by the user is a context given by the user: `auto` then asks in the prompt. The
    first contexts of many draws are those of fewer.
    """
    chosen = _chosen(query, captions, query.draws or MOST_DRAWS)
    if not query.swap:
        return chosen
    pairs = tuple((minus, plus) for plus, minus in chosen.pairs)
    return Contexts(chosen.kind, pairs, f"{chosen.where}, c+ and c- exchanged")


def _chosen(query: Concept, captions: Iterable[str], draws: int) -> Contexts:
    if query.context == "prompt" or (query.context == "auto" and query.minus is not None):
        pair = (query.prompt, query.complement)
        return Contexts("prompt", (pair,) * draws, "in this one prompt")
    if query.context == "bare":
        return _bare(query, draws)
    if query.context == "auto":
        named = sorted({c for c in captions if contains(c, query.concept)})
        if len(named) < MIN_CONTEXTS:
            _warn_of_near_forms(query.concept, len(named), captions)
            return _bare(query, draws)
        pool = [(caption, without(caption, query.concept, query.anchor)) for caption in named]
        instead = f"with {query.anchor!r} instead" if query.anchor else "without the words"
        where = f"training captions that name it, with and {instead}"
        return _drawn(query, pool, draws, "captions", where)
    pool = _read_contexts(Path(query.context), query)
    return _drawn(query, pool, draws, "file", f"contexts of {query.context}")


def _warn_of_near_forms(concept: str, named: int, captions: Iterable[str]) -> None:
    """Say which other forms of the words captions hold, where too few hold the words themselves."""
    forms = inflections(concept, captions)
    if not forms:
        return
    held = ", ".join(f"{form!r} in {count}" for form, count in forms.items())
    text = (
        f"{concept!r} is in {named} training captions, too few to ask over, so the bare words are "
        f"asked; there is {held}: ask for that to ask over captions"
    )
    warnings.warn(text, HeadwaterWarning, stacklevel=2)


def _bare(query: Concept, draws: int) -> Contexts:
    pair = (query.concept, query.anchor)
    against = repr(query.anchor) if query.anchor else "the empty prompt"
    return Contexts("bare", (pair,) * draws, f"the bare words against {against}")


def _drawn(
    query: Concept, pool: list[tuple[str, str]], draws: int, kind: str, where: str
) -> Contexts:
    """`draws` contexts from the pool: all before any comes twice."""
    chance = random.Random(f"{query.seed}|{query.concept}")
    return Contexts(kind, tuple(without_repeats(pool, draws, chance)), where)


def _read_contexts(path: Path, query: Concept) -> list[tuple[str, str]]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(
            f"--context {str(path)!r} is neither auto, prompt, bare nor a readable file ({error})"
        ) from None
    pairs = []
    for number, line in enumerate(lines, 1):
        plus, tab, minus = line.partition("\t")
        pair = (plus.strip(), minus.strip() if tab else without(plus, query.concept, query.anchor))
        if same_words(*pair):
            raise QueryError(
                f"{path} line {number}: c+ equals c- ({plus!r}): give a caption that holds "
                f"{query.concept!r}, or `c+ <tab> c-`"
            )
        pairs.append(pair)
    if not pairs:
        raise QueryError(f"{path} holds no context: give one caption a line")
    return pairs


def same_words(plus: str, minus: str) -> bool:
    return plus.split() == minus.split()
