"""Contact sheets: the images of an answer in reading order, each with its score and its caption.

A sheet is arithmetic. Margins, gaps and text sizes follow from the tile size alone, so that every
cell has the same height and no text can meet its neighbour: what is too long ends in "…".

The font is the one that Pillow carries, so a sheet looks the same on every machine. That font
knows ASCII and little more. Accents are dropped ("café" is drawn as "cafe"); a letter of another
script becomes an empty box. The HTML report shows all captions as they are.
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from headwater.data.images import MAT, PAPER, flatten, scale

INK, MUTED, ACCENT = "#1a1c1e", "#6a7077", "#0b6e83"
# The hyphens and dashes of Unicode, and its minus sign.
DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212], "-")

# Narrower than this, a rank of six digits and a score of ten letters would touch.
NARROWEST = 112


@dataclass(frozen=True)
class Entry:
    """One training image in an answer; `image` is None where it could not be opened.

    `error` is the score's standard error, `stays` the share of resampled answers that keep the
    image in their top `k`, `copies` the ids of near-copies that this entry stands for.
    """

    rank: int
    id: str
    score: float
    caption: str
    uri: str
    image: Image.Image | None
    error: float | None = None
    stays: float | None = None
    k: int = 10
    copies: Sequence[str] = ()

    @property
    def near(self) -> str:
        """How many near-copies, in words; "" for none."""
        return said_copies(len(self.copies))


@dataclass(frozen=True)
class _Layout:
    """Where everything goes, from the size of a tile: one cell is picture, score, caption, id."""

    columns: int
    tile: int

    @property
    def margin(self) -> int:
        return max(24, self.tile // 4)

    @property
    def gap(self) -> int:
        return max(12, self.tile // 8)

    @property
    def text(self) -> int:
        return max(11, round(self.tile / 12))

    @property
    def small(self) -> int:
        return max(9, round(self.text * 0.8))

    @property
    def leading(self) -> int:
        return round(self.text * 1.35)

    @property
    def cell(self) -> int:
        """Height of a cell: the picture, then lines for the score, the caption (two), the id."""
        return self.tile + self.text + 4 * self.leading

    @property
    def width(self) -> int:
        return self.columns * (self.tile + self.gap) - self.gap

    def corner(self, i: int, top: int) -> tuple[int, int]:
        """The upper left corner of the i-th cell, where the first row starts at `top`."""
        row, column = divmod(i, self.columns)
        x = self.margin + column * (self.tile + self.gap)
        return x, top + row * (self.cell + 2 * self.gap)


def contact_sheet(
    entries: Sequence[Entry],
    *,
    title: str,
    subtitle: str = "",
    columns: int = 5,
    tile: int = 160,
) -> Image.Image:
    """Draw the entries in rows under a title, as an RGB image.

    The sheet is as wide as its columns, at least three so that the title has room, and as high as
    its rows. Letters that Pillow's font lacks are drawn as boxes (see the module's docstring).
    """
    if columns < 1 or tile < NARROWEST:
        raise ValueError(f"columns={columns}, tile={tile}: give at least 1 and {NARROWEST}")
    layout = _Layout(min(columns, max(len(entries), 3)), tile)
    header = _header(title, subtitle, layout)
    top = layout.margin + header.height + 2 * layout.gap
    # Where the cell after the last would start in the next row, less the space between rows.
    rows = max(1, -(-len(entries) // layout.columns))
    bottom = layout.corner(rows * layout.columns, top)[1] - 2 * layout.gap
    size = (layout.width + 2 * layout.margin, bottom + layout.margin)
    sheet = Image.new("RGB", size, PAPER)
    sheet.paste(header, (layout.margin, layout.margin))
    for i, entry in enumerate(entries):
        _draw_cell(sheet, entry, layout.corner(i, top), layout)
    return sheet


def columns_sheet(
    heads: Sequence[str],
    bands: Sequence[tuple[str, Sequence[Sequence[Image.Image | None]]]],
    *,
    title: str,
    subtitle: str = "",
    tile: int = 128,
) -> Image.Image:
    """Pictures in columns with a head each, as an RGB image.

    A band is a name and, for each column, the pictures that stand below each other in it.
    """
    layout = _Layout(max(len(heads), 3), tile)
    header = _header(title, subtitle, layout)
    depths = [max(map(len, columns), default=0) for _, columns in bands]
    pitch, heading = tile + layout.gap, 2 * layout.leading
    said = [_wrap(head, layout.text, tile, 3) for head in heads]
    top = layout.margin + header.height + layout.gap
    below = top + (1 + max(map(len, said), default=1)) * layout.leading
    bottom = below + sum(heading + depth * pitch for depth in depths)
    sheet = Image.new("RGB", (layout.width + 2 * layout.margin, bottom + layout.margin), PAPER)
    sheet.paste(header, (layout.margin, layout.margin))
    pen, font = ImageDraw.Draw(sheet), _font(layout.text)
    across = [layout.margin + i * pitch for i in range(len(heads))]
    for x, lines in zip(across, said, strict=True):
        for i, line in enumerate(lines, 1):
            pen.text((x, top + i * layout.leading), line, fill=INK, font=font)
    y = below
    for (name, columns), depth in zip(bands, depths, strict=True):
        pen.text((layout.margin, y + layout.leading), name, fill=ACCENT, font=font, anchor="ls")
        for x, pictures in zip(across, columns, strict=True):
            for i, image in enumerate(pictures):
                sheet.paste(_tile(image, tile), (x, y + heading - layout.gap // 2 + i * pitch))
        y += heading + depth * pitch
    return sheet


def format_score(score: float) -> str:
    """Three significant digits and the sign, without an exponent where that stays readable."""
    rounded = f"{score or 0.0:+.2e}"
    exponent = int(rounded.rpartition("e")[2])
    return format(Decimal(rounded), "+f") if -5 <= exponent < 7 else rounded


def format_error(error: float) -> str:
    """Two significant digits without a sign, otherwise like a score."""
    rounded = f"{abs(error):.1e}"
    exponent = int(rounded.rpartition("e")[2])
    return format(Decimal(rounded), "f") if -5 <= exponent < 7 else rounded


def said_copies(count: int) -> str:
    """In words, as in +4 near-copies; nothing for none."""
    return f"+{count} near-cop{'y' if count == 1 else 'ies'}" if count else ""


def _header(title: str, subtitle: str, layout: _Layout) -> Image.Image:
    big, normal = max(20, layout.tile // 6), layout.text + 1
    titles = _wrap(title, big, layout.width, 3)
    subtitles = _wrap(subtitle, normal, layout.width, 4)
    height = big * (len(titles) + 1) * 4 // 3 + normal * len(subtitles) * 3 // 2
    header = Image.new("RGB", (layout.width, height), PAPER)
    pen = ImageDraw.Draw(header)
    pen.rectangle((0, 0, 2 * big - 1, big // 8), fill=ACCENT)
    y = big * 2 // 3
    for line in titles:
        y += big * 4 // 3
        pen.text((0, y), line, fill=INK, font=_font(big), anchor="ls")
    y += big // 3
    for line in subtitles:
        y += normal * 3 // 2
        pen.text((0, y), line, fill=MUTED, font=_font(normal), anchor="ls")
    return header


def _draw_cell(sheet: Image.Image, entry: Entry, corner: tuple[int, int], layout: _Layout) -> None:
    x, y = corner
    sheet.paste(_tile(entry.image, layout.tile), (x, y))
    pen, font = ImageDraw.Draw(sheet), _font(layout.text)
    y += layout.tile + layout.text // 2 + layout.text  # text is placed by its baseline
    pen.text((x, y), str(entry.rank), fill=ACCENT, font=font, anchor="ls")
    score = format_score(entry.score)
    pen.text((x + layout.tile, y), score, fill=INK, font=font, anchor="rs")
    y += layout.text // 4
    for line in _wrap(entry.caption, layout.text, layout.tile, 2):
        y += layout.leading
        pen.text((x, y), line, fill=INK, font=font, anchor="ls")
    y += layout.leading
    small, room = _font(layout.small), float(layout.tile)
    if entry.near:
        pen.text((x + layout.tile, y), entry.near, fill=ACCENT, font=small, anchor="rs")
        room -= small.getlength(entry.near) + layout.small
    id = _shorten_front(_drawable(entry.id), layout.small, int(room))
    pen.text((x, y), id, fill=MUTED, font=small, anchor="ls")


def _tile(image: Image.Image | None, side: int) -> Image.Image:
    """The picture in the middle of a pale square, or words that say that there is none."""
    tile = Image.new("RGB", (side, side), MAT)
    if image is None:
        pen, middle = ImageDraw.Draw(tile), (side / 2, side / 2)
        pen.text(middle, "image not found", fill=MUTED, font=_font(side // 12), anchor="mm")
        return tile
    picture = scale(flatten(image), side)
    tile.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return tile


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """The nearest text in the letters that the font has: no accents, plain dashes and spaces."""
    text = " ".join(text.split()).translate(DASHES)
    # Marks (M) are accents once a letter is decomposed; controls (C) have no shape.
    letters = unicodedata.normalize("NFKD", text)
    letters = "".join(letter for letter in letters if unicodedata.category(letter)[0] not in "MC")
    return unicodedata.normalize("NFC", letters)


def _wrap(text: str, size: int, width: int, most: int) -> list[str]:
    """At most so many lines, none wider than `width`; the last ends in "…" if words are left."""
    rest, lines = _drawable(text), []
    while rest and len(lines) < most - 1:
        end = _fitting(rest, size, width)
        if end < len(rest):
            end = max(rest.rfind(" ", 0, end + 1), 0) or end  # a word too long for a line is cut
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return [*lines, _shorten(rest, size, width)] if rest else lines


def _shorten(text: str, size: int, width: int) -> str:
    if _font(size).getlength(text) <= width:
        return text
    end = _fitting(text, size, width - math.ceil(_font(size).getlength("…")))
    word = text.rfind(" ", 0, end + 1)
    # Between words where that costs little, else in the middle of one.
    return text[: word if word > end // 2 else end].rstrip(" ,;.") + "…"


def _shorten_front(text: str, size: int, width: int) -> str:
    """For ids, whose ends tell them apart: what is too long loses its beginning."""
    return _shorten(text[::-1], size, width)[::-1]


def _fitting(text: str, size: int, width: int) -> int:
    """How many letters, at least one, fit into a line."""
    length = _font(size).getlength
    return max(1, bisect_right(range(1, len(text) + 1), width, key=lambda n: length(text[:n])))
