"""Take a concept's words out of a prompt and tidy what is left."""

from __future__ import annotations

import re

_PREPOSITION = r"(?:in|on|at|with|by|of|and|or|from|under|over|near|as|like|wearing|holding)"
_ARTICLE = r"(?:a|an|the)"
_HOLE = "\0"
# What may follow a hole that nothing fills any more.
_NOTHING = rf"(?=\s*(?:$|[,.;:]|{_PREPOSITION}\b))"

# Applied in this order around the hole that the words leave, and nowhere else in the prompt.
_TIDY = (
    # "Pikachu in the style of Picasso" -> "Pikachu"
    (rf"\b(?:in|with|by)\s+(?:{_ARTICLE}\s+)?(?:style|manner|art)\s+(?:of|by)\s+{_HOLE}", _HOLE),
    # "a star in hatched style" -> "a star"
    (rf"\b(?:in|with)\s+(?:{_ARTICLE}\s+)?{_HOLE}\s+(?:style|manner)\b", _HOLE),
    # "a star on a hill" without "star" -> "on a hill"
    (rf"\b{_ARTICLE}\s+{_HOLE}{_NOTHING}", _HOLE),
    # "a cat with a hat" without "hat" -> "a cat"
    (rf"\b{_PREPOSITION}\s+{_HOLE}{_NOTHING}", _HOLE),
    # "an orange star" -> "a star"
    (rf"\b(a)n?\s+{_HOLE}\s*(?=[aeiou])", r"\1n "),
    (rf"\b(a)n?\s+{_HOLE}\s*(?=\w)", r"\1 "),
    (rf"(?:,\s*)?{_HOLE}\s*(?=[,.;:])", ""),
    (rf"\s*{_HOLE}\s*", " "),
)


def contains(text: str, words: str) -> bool:
    """Whether `text` holds `words` as whole words, whatever the case."""
    return bool(words.strip()) and _pattern(words).search(text) is not None


def without(text: str, words: str) -> str:
    """`text` with every occurrence of `words` taken out and the gap tidied.

    >>> without("Pikachu in the style of Pablo Picasso", "Pablo Picasso")
    'Pikachu'
    >>> without("Pikachu in the style of Pablo Picasso", "Pikachu")
    'in the style of Pablo Picasso'
    >>> without("an orange star in hatched style on a striped background", "hatched")
    'an orange star on a striped background'
    """
    text = _pattern(words).sub(_HOLE, text)
    for pattern, replacement in _TIDY:
        text = re.sub(pattern, replacement, text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", text).strip(" ,.;:-")


def _pattern(words: str) -> re.Pattern[str]:
    inner = r"\s+".join(re.escape(word) for word in words.split())
    return re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)
