"""Which characters make up words, and which scripts put spaces between them.

Latin, Greek, Cyrillic, Arabic, Hebrew, Devanagari, Hangul and most others do: there a word ends
where its letters end. Chinese, Japanese, Thai, Lao, Khmer, Burmese and a few more do not: there any
part of a text may be a word, and where one ends cannot be seen. All are parts of character classes
of `re`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby

# fmt: off
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),    # Thai, Lao
    (0x0F00, 0x109F),    # Tibetan, Burmese
    (0x1780, 0x17FF),    # Khmer
    (0x1950, 0x1AAF),    # Tai Le, New Tai Lue, Khmer symbols, Tai Tham
    (0x1B00, 0x1B7F),    # Balinese
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x3038, 0x303C),  # signs of Chinese
    (0x3041, 0x30FF),    # Hiragana, Katakana
    (0x3100, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF),  # Bopomofo, Katakana for Ainu
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),  # Chinese characters
    (0xA980, 0xA9FF), (0xAA60, 0xAA7F),  # Javanese, Burmese
    (0xFF66, 0xFF9F),    # Katakana of half width
    (0x1B000, 0x1B16F),  # Kana of old
    (0x20000, 0x323AF),  # Chinese characters
)
# fmt: on
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)  # say how the character before looks, as of emoji
_LAST_MARK = 0x1E944  # ...but for those of planes that hold no letters

HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7ff"


def _as_class(ranges: Iterable[tuple[int, int]]) -> str:
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


UNSPACED = _as_class(_WITHOUT_SPACES)
_ONE_UNSPACED = re.compile(f"[{UNSPACED}]")
# A letter or digit of a script that puts spaces between words. An underscore is none: it stands for
# a space in tags, or for emphasis.
LETTER = rf"[^\W_{UNSPACED}]"


def holds_unspaced(text: str) -> bool:
    """Whether a character of it is of a script that puts no spaces between words."""
    return _ONE_UNSPACED.search(text) is not None


@cache
def marks() -> str:
    """Vowel signs and accents: of the character before, and no letters to `re`."""
    return _as_class(_runs(_mark_codes()))


@cache
def spaced() -> str:
    """A pattern for one letter, digit or mark of a script that puts spaces between words."""
    own = _as_class(_runs([code for code in _mark_codes() if not holds_unspaced(chr(code))]))
    return rf"(?:{LETTER}|[{own}])"


@cache
def _mark_codes() -> list[int]:
    codes = (code for code in range(0x300, _LAST_MARK + 1) if code not in _VARIATION_SELECTORS)
    return [code for code in codes if unicodedata.category(chr(code))[0] == "M"]


def _runs(codes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges, first and last."""
    for _, run in groupby(enumerate(codes), lambda numbered: numbered[1] - numbered[0]):
        members = [code for _, code in run]
        yield members[0], members[-1]
