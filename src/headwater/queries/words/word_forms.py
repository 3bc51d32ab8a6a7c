"""Near forms of a concept's words: what texts hold in their place, for an error that can say so.

`contains` is exact, so that nobody is asked for a concept that was not meant: "star" is not in "two
stars". A refusal names what is there.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from headwater.queries.words.prompts import contains

# Nouns whose plural no rule gives.
_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet",
    "tooth": "teeth", "goose": "geese", "mouse": "mice", "ox": "oxen", "die": "dice",
    "leaf": "leaves", "loaf": "loaves", "half": "halves", "calf": "calves", "shelf": "shelves",
    "elf": "elves", "wolf": "wolves", "thief": "thieves", "scarf": "scarves", "knife": "knives",
    "life": "lives", "wife": "wives", "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes",
    "cactus": "cacti",
}  # fmt: skip
_SINGULAR = {plural: singular for singular, plural in _IRREGULAR.items()}
_HISSING = ("s", "x", "z", "ch", "sh")


def inflections(words: str, texts: Iterable[str]) -> dict[str, int]:
    """Near forms of `words` that texts hold, and how many hold each; the most frequent first.

    Forms are the plural and the singular of the last word by English rules, parts joined otherwise
    (with a space, a hyphen, an underscore or nothing), and accents written otherwise or left out.
    Case needs no form: it is ignored everywhere. `words` themselves are not counted.

    >>> inflections("star", ["two red stars", "a star", "stars", "a starlit sky"])
    {'stars': 2}
    >>> inflections("t shirts", ["a t-shirt", "a tshirt"])
    {'t-shirt': 1, 'tshirt': 1}
    """
    forms, counts = near_forms(words), Counter[str]()
    for text in texts:
        counts.update(form for form in forms if contains(text, form))
    held = {form: counts[form] for form in forms if counts[form]}
    return dict(sorted(held.items(), key=lambda item: -item[1]))


def near_forms(words: str) -> list[str]:
    """Forms of `words` that a text may hold in their place, each once, without `words`."""
    first, last = _split(words)
    numbers = [first + number for number in (last, *_other_numbers(last))]
    forms = [form for number in numbers for joined in _joined(number) for form in _accents(joined)]
    known = " ".join(words.split()).casefold()
    return [form for form in dict.fromkeys(forms) if form.casefold() != known]


def _split(words: str) -> tuple[str, str]:
    """All but the last word, and the last word: hyphens part words too."""
    words = " ".join(words.split())
    end = max(words.rfind(joint) for joint in " -_") + 1
    return words[:end], words[end:]


def _other_numbers(word: str) -> Iterator[str]:
    """The plural of a word that may be a singular, the singular of one that may be a plural."""
    lower = word.lower()
    if len(word) < 2 or not (word.isascii() and word.isalpha()):
        return
    if lower in _SINGULAR:
        yield _SINGULAR[lower]
        return
    if lower.endswith("s") and not lower.endswith(("ss", "us", "is")):
        yield word[:-1]
        if lower.endswith("ies") and len(word) > 4:
            yield f"{word[:-3]}y"
        elif lower.endswith("es") and lower[:-2].endswith((*_HISSING, "o")):
            yield word[:-2]
    elif lower in _IRREGULAR:
        yield _IRREGULAR[lower]
    elif lower.endswith("y") and lower[-2] not in "aeiou":
        yield f"{word[:-1]}ies"
    else:
        yield f"{word}es" if lower.endswith(_HISSING) else f"{word}s"


def _joined(words: str) -> Iterator[str]:
    """The same words with spaces, hyphens, underscores or nothing between them."""
    yield words
    parts = words.replace("-", " ").replace("_", " ").split()
    if len(parts) > 1:
        yield from (joint.join(parts) for joint in " -_")
        yield "".join(parts)


def _accents(words: str) -> Iterator[str]:
    """The same with accents in one character, apart, and left out."""
    apart = unicodedata.normalize("NFD", words)
    yield words
    yield unicodedata.normalize("NFC", words)
    yield apart
    if all(unicodedata.name(mark, "").startswith("COMBINING") for mark in _marks(apart)):
        yield "".join(letter for letter in apart if not unicodedata.combining(letter))


def _marks(text: str) -> Iterator[str]:
    return (letter for letter in text if unicodedata.combining(letter))
