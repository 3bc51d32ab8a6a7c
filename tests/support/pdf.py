"""Where pictures and filled boxes stand on the pages of a PDF, as Chromium writes one.

Such a file has its objects one after the other, uncompressed but for their streams, and draws in
the page's own units after one change of scale; that is all that is read here.
"""

import re
import zlib
from typing import NamedTuple

import numpy as np

# a number's name, then anything up to the end of the object
OBJECT = re.compile(rb"(?s)\n(\d+) 0 obj\s(.*?)\sendobj")


class Box(NamedTuple):
    """A rectangle on a page, in points from its lower left corner; `filled` or a picture."""

    kind: str
    left: float
    bottom: float
    right: float
    top: float


class Sheet(NamedTuple):
    """A page.

    Attributes:
        size: its width and height in points.
        area: what may be drawn on: the page without its margins.
        scale: points for one pixel of CSS; 0.75, if nothing had to be made smaller to fit.
    """

    size: tuple[float, float]
    area: Box
    scale: float
    boxes: list[Box]

    @property
    def pictures(self) -> list[Box]:
        """Where pictures were drawn."""
        return [box for box in self.boxes if box.kind == "picture"]

    def cut(self, slack: float = 1.0) -> list[Box]:
        """Boxes that go on beyond the area."""
        return [
            box
            for box in self.boxes
            if box.left < self.area.left - slack
            or box.right > self.area.right + slack
            or box.bottom < self.area.bottom - slack
            or box.top > self.area.top + slack
        ]


def sheets(pdf: bytes) -> list[Sheet]:
    """The pages of a file that Chromium printed."""
    objects = {int(number): body for number, body in OBJECT.findall(pdf)}
    pages = [body for body in objects.values() if re.match(rb"<<\s*/Type /Page\b", body)]
    return [_sheet(page, objects) for page in pages]


def _sheet(page: bytes, objects: dict[int, bytes]) -> Sheet:
    media = re.search(rb"/MediaBox \[([^]]+)\]", page)
    contents = re.search(rb"/Contents (\d+)", page)
    assert media and contents, page
    _, _, width, height = map(float, media[1].split())
    stream = objects[int(contents[1])].partition(b"stream")[2].lstrip(b"\r\n")
    words = zlib.decompressobj().decompress(stream).split()
    area, scale, boxes = None, 0.0, []
    matrix, kept, last, numbers = np.eye(3), [], None, []
    for word in words:
        if re.fullmatch(rb"-?\d*\.?\d+", word):
            numbers.append(float(word))
            continue
        match word:
            case b"q":
                kept.append(matrix)
            case b"Q":
                matrix = kept.pop()
            case b"cm":
                a, b, c, d, e, f = numbers[-6:]
                matrix = np.array([[a, b, 0], [c, d, 0], [e, f, 1]]) @ matrix
                scale = scale or (abs(matrix[0, 0]) if len(kept) == 2 else 0.0)
            case b"re":
                x, y, w, h = numbers[-4:]
                last = _box("filled", matrix, (x, y), (x + w, y + h))
            case b"W" | b"W*":
                area = area or last
            case b"f" if last:
                boxes.append(last)
            case b"Do":
                boxes.append(_box("picture", matrix, (0, 0), (1, 1)))
        if word not in (b"re", b"W", b"W*", b"n"):
            last = None
        numbers = []
    assert area is not None and scale
    return Sheet((width, height), area, scale, boxes)


def _box(kind: str, matrix: np.ndarray, *corners: tuple[float, float]) -> Box:
    (x0, y0), (x1, y1) = (np.array([*corner, 1.0]) @ matrix[:, :2] for corner in corners)
    return Box(kind, min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
