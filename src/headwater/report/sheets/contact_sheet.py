"""Contact sheets: the images of an answer in reading order, each with its score and its caption.

A sheet is arithmetic. Margins, gaps and text sizes follow from the tile size alone, so that every
cell has the same height and no text can meet its neighbour: what is too long ends in "…". Letters
that Pillow's font lacks come close or are boxes (`report.text_fitting`); the HTML report shows all
captions as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from PIL import Image, ImageDraw

from headwater.data.images import MAT, PAPER, flatten, scale
from headwater.report.sheets.text_fitting import (
    load_font,
    shorten,
    shorten_front,
    to_drawable,
    wrap,
)

INK, MUTED, ACCENT = "#1a1c1e", "#6a7077", "#0b6e83"

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
    def pitch(self) -> int:
        """From the left edge of a tile to that of the next."""
        return self.tile + self.gap

    @property
    def width(self) -> int:
        return self.columns * self.pitch - self.gap

    def left(self, column: int) -> int:
        return self.margin + column * self.pitch

    def corner(self, i: int, top: int) -> tuple[int, int]:
        """The upper left corner of the i-th cell, where the first row starts at `top`."""
        row, column = divmod(i, self.columns)
        return self.left(column), top + row * (self.cell + 2 * self.gap)


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
    its rows. A picture that could not be opened is a tile that says so.

    Raises:
        ValueError: there is no column, or a tile is too narrow for its numbers.
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


# A name, and for each column the pictures that stand below each other in it.
Band = tuple[str, Sequence[Sequence[Image.Image | None]]]


def columns_sheet(
    heads: Sequence[str],
    bands: Sequence[Band],
    *,
    title: str,
    subtitle: str = "",
    tile: int = 128,
) -> Image.Image:
    """Pictures in columns with a head each, as an RGB image; bands of them stand one below another.

    The sheet is as wide as its columns, at least three so that the title has room.
    """
    layout = _Layout(max(len(heads), 3), tile)
    header = _header(title, subtitle, layout)
    lines = [wrap(head, layout.text, tile, 3) for head in heads]
    top = layout.margin + header.height + layout.gap
    first = top + (1 + max(map(len, lines), default=1)) * layout.leading
    bottom = first + sum(_band_height(band, layout) for band in bands)
    sheet = Image.new("RGB", (layout.width + 2 * layout.margin, bottom + layout.margin), PAPER)
    sheet.paste(header, (layout.margin, layout.margin))
    pen, font = ImageDraw.Draw(sheet), load_font(layout.text)
    for column, head in enumerate(lines):
        for i, line in enumerate(head, 1):
            place = (layout.left(column), top + i * layout.leading)
            pen.text(place, line, fill=INK, font=font)
    for band in bands:
        _draw_band(sheet, band, first, layout)
        first += _band_height(band, layout)
    return sheet


def _band_height(band: Band, layout: _Layout) -> int:
    depth = max(map(len, band[1]), default=0)
    return 2 * layout.leading + depth * layout.pitch


def _draw_band(sheet: Image.Image, band: Band, top: int, layout: _Layout) -> None:
    name, columns = band
    line = shorten(to_drawable(name), layout.text, layout.width)
    pen, place = ImageDraw.Draw(sheet), (layout.margin, top + layout.leading)
    pen.text(place, line, fill=ACCENT, font=load_font(layout.text), anchor="ls")
    top += 2 * layout.leading - layout.gap // 2
    for column, pictures in enumerate(columns):
        for i, image in enumerate(pictures):
            place = (layout.left(column), top + i * layout.pitch)
            sheet.paste(_tile(image, layout.tile), place)


def format_score(score: float) -> str:
    """Three significant digits and the sign, without an exponent where that stays readable.

    >>> format_score(0.031234), format_score(-1.5e-9)
    ('+0.0312', '-1.50e-09')
    """
    rounded = f"{score or 0.0:+.2e}"
    exponent = int(rounded.rpartition("e")[2])
    return format(Decimal(rounded), "+f") if -4 <= exponent < 7 else rounded


def format_error(error: float) -> str:
    """Two significant digits without a sign, otherwise like a score.

    >>> format_error(0.00213)
    '0.0021'
    """
    rounded = f"{abs(error):.1e}"
    exponent = int(rounded.rpartition("e")[2])
    return format(Decimal(rounded), "f") if -5 <= exponent < 7 else rounded


def said_copies(count: int) -> str:
    """In words, as in +4 near-copies; nothing for none."""
    return f"+{count} near-cop{'y' if count == 1 else 'ies'}" if count else ""


def _header(title: str, subtitle: str, layout: _Layout) -> Image.Image:
    big, normal = max(20, layout.tile // 6), layout.text + 1
    titles = wrap(title, big, layout.width, 3)
    subtitles = wrap(subtitle, normal, layout.width, 4)
    height = big * (len(titles) + 1) * 4 // 3 + normal * len(subtitles) * 3 // 2
    header = Image.new("RGB", (layout.width, height), PAPER)
    pen = ImageDraw.Draw(header)
    pen.rectangle((0, 0, 2 * big - 1, big // 8), fill=ACCENT)
    y = big * 2 // 3
    for line in titles:
        y += big * 4 // 3
        pen.text((0, y), line, fill=INK, font=load_font(big), anchor="ls")
    y += big // 3
    for line in subtitles:
        y += normal * 3 // 2
        pen.text((0, y), line, fill=MUTED, font=load_font(normal), anchor="ls")
    return header


def _draw_cell(sheet: Image.Image, entry: Entry, corner: tuple[int, int], layout: _Layout) -> None:
    x, y = corner
    sheet.paste(_tile(entry.image, layout.tile), (x, y))
    pen, font = ImageDraw.Draw(sheet), load_font(layout.text)
    y += layout.tile + layout.text // 2 + layout.text  # text is placed by its baseline
    pen.text((x, y), str(entry.rank), fill=ACCENT, font=font, anchor="ls")
    score = format_score(entry.score)
    pen.text((x + layout.tile, y), score, fill=INK, font=font, anchor="rs")
    y += layout.text // 4
    for line in wrap(entry.caption, layout.text, layout.tile, 2):
        y += layout.leading
        pen.text((x, y), line, fill=INK, font=font, anchor="ls")
    y += layout.leading
    small, room = load_font(layout.small), float(layout.tile)
    if entry.near:
        pen.text((x + layout.tile, y), entry.near, fill=ACCENT, font=small, anchor="rs")
        room -= small.getlength(entry.near) + layout.small
    id = shorten_front(to_drawable(entry.id), layout.small, int(room))
    pen.text((x, y), id, fill=MUTED, font=small, anchor="ls")


def _tile(image: Image.Image | None, side: int) -> Image.Image:
    """The picture in the middle of a pale square, or words that say that there is none."""
    tile = Image.new("RGB", (side, side), MAT)
    if image is None:
        pen, middle = ImageDraw.Draw(tile), (side / 2, side / 2)
        pen.text(middle, "image not found", fill=MUTED, font=load_font(side // 12), anchor="mm")
        return tile
    picture = scale(flatten(image), side)
    tile.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return tile
