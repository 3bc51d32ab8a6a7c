"""Text that is drawn into a picture: what the font can show of it, and what fits into a width.

The font is the one that Pillow carries, so a sheet looks the same on every machine. That font
knows ASCII and little more. Accents are dropped ("café" is drawn as "cafe"); a letter of another
script becomes an empty box. What is too long ends in "…".
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from functools import cache, lru_cache

from PIL import ImageFont

# The hyphens and dashes of Unicode, and its minus sign.
_DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212], "-")


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, `size` pixels high."""
    return ImageFont.load_default(size)


def to_drawable(text: str) -> str:
    r"""The nearest text in the letters that the font has: no accents, plain dashes and spaces.

    What has no shape, controls and marks of direction, is dropped: an escape code does nothing.

    >>> to_drawable("café — a\n\x1b[31mred\x1b[0m \u202efish")
    'cafe - a [31mred[0m fish'
    """
    text = " ".join(text.split()).translate(_DASHES)
    # Marks (M) are accents once a letter is decomposed; controls (C) have no shape.
    letters = unicodedata.normalize("NFKD", text)
    letters = "".join(letter for letter in letters if unicodedata.category(letter)[0] not in "MC")
    return unicodedata.normalize("NFC", letters)


def wrap(text: str, size: int, width: int, most: int) -> list[str]:
    """At most so many lines, none wider than `width`; the last ends in "…" if words are left.

    >>> wrap("a star in dotted style", 13, 90, 1)
    ['a star in…']
    """
    rest, lines = to_drawable(text), []
    while rest and len(lines) < most - 1:
        end = count_fitting(rest, size, width)
        if end < len(rest):
            end = max(rest.rfind(" ", 0, end + 1), 0) or end  # a word too long for a line is cut
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return [*lines, shorten(rest, size, width)] if rest else lines


def shorten(text: str, size: int, width: int) -> str:
    """One line of drawable text, its end left out where it is too long."""
    length = load_font(size).getlength
    if len(text) <= width and length(text) <= width:
        return text
    end = count_fitting(text, size, width - math.ceil(length("…")))
    word = text.rfind(" ", 0, end + 1)
    # Between words where that costs little, else in the middle of one.
    return text[: word if word > end // 2 else end].rstrip(" ,;.") + "…"


def shorten_front(text: str, size: int, width: int) -> str:
    """For ids, whose ends tell them apart: what is too long loses its beginning."""
    return shorten(text[::-1], size, width)[::-1]


@lru_cache(4096)  # a caption stands on several sheets of an answer, and in the next answer
def count_fitting(text: str, size: int, width: int) -> int:
    """How many letters, at least one, fit into a line.

    None is narrower than a pixel, so only so many are measured: Pillow refuses very long texts.
    """
    length = load_font(size).getlength
    candidates = range(1, min(len(text), max(width, 1)) + 1)
    return max(1, bisect_right(candidates, width, key=lambda n: length(text[:n])))
