"""Pictures on their way to a model's size: resized, then cut in the middle, as in training."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

import numpy as np
from PIL import Image

from headwater.errors import ParameterError

# Of pictures that are made smaller; "area", OpenCV's, makes larger ones by Lanczos as kohya does.
RESIZES = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.LANCZOS,
}
# None of the others is far from it: 36 dB or more, where Lanczos and bilinear differ by 33.
RESIZE = "bicubic"
# Pixels that a whole picture is not resized to, as a long strip would be: its middle is, which is
# the same but for Pillow's rounding between rows and columns.
_TOO_MANY = 64_000_000


class Fit(NamedTuple):
    """What became of a picture: sizes are (height, width) in pixels.

    Attributes:
        original: as it came.
        cut: what was cut off above and at the left, after resizing.
        size: what is left.
    """

    original: tuple[int, int]
    cut: tuple[int, int]
    size: tuple[int, int]


def fit_of(image: Image.Image, size: tuple[int, int]) -> Fit:
    """What `fitted` does to it.

    >>> fit_of(Image.new("RGB", (300, 100)), (50, 50))
    Fit(original=(100, 300), cut=(0, 50), size=(50, 50))
    """
    rows, columns = _covering(image, size)
    cut = (rows - size[0]) // 2, (columns - size[1]) // 2
    return Fit((image.height, image.width), cut, size)


def fitted(image: Image.Image, size: tuple[int, int], resize: str = RESIZE) -> Image.Image:
    """The picture at this (height, width): the largest middle part of its shape.

    Args:
        resize: a name of `RESIZES`.
    """
    if (image.height, image.width) == size:
        return image
    (height, width), (rows, columns) = size, _covering(image, size)
    top, left = fit_of(image, size).cut
    down, across = image.height / rows, image.width / columns
    box = (
        left * across,
        top * down,
        min((left + width) * across, float(image.width)),
        min((top + height) * down, float(image.height)),
    )
    if resize == "area" and down >= 1 and across >= 1:
        return _means_of_areas(image, box, size)
    if rows * columns > _TOO_MANY:
        return image.resize((width, height), RESIZES[resize], box)
    whole = image.resize((columns, rows), RESIZES[resize])
    return whole.crop((left, top, left + width, top + height))


def _covering(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the whole picture, at the smallest scale that covers `size`."""
    scale = max(size[0] / image.height, size[1] / image.width)
    return int(image.height * scale + 0.5), int(image.width * scale + 0.5)


def _means_of_areas(
    image: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Image.Image:
    """Each new pixel the mean of what it covers, as OpenCV's INTER_AREA has it."""
    left, top, right, bottom = box
    rows = _means(np.asarray(image), top, bottom, size[0])
    both = _means(rows.swapaxes(0, 1), left, right, size[1]).swapaxes(0, 1)
    return Image.fromarray(both.round().astype(np.uint8))


def _means(pixels: np.ndarray, start: float, stop: float, count: int) -> np.ndarray:
    """Means along the first axis, over equal stretches; a pixel counts by what lies in each."""
    edges = np.linspace(start, stop, count + 1)
    sums = np.zeros(
        (len(pixels) + 1, *pixels.shape[1:]), np.uint32 if pixels.dtype == np.uint8 else np.float64
    )
    np.cumsum(pixels, 0, out=sums[1:])
    whole = np.minimum(edges.astype(int), len(pixels) - 1)
    part = (edges - whole).reshape(-1, *[1] * (pixels.ndim - 1))
    return np.diff(sums[whole] + part * pixels[whole], axis=0) / (edges[1] - edges[0])


# --- aspect buckets -------------------------------------------------------------------------------


def buckets_named(asked: str | None, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each bucket in pixels, in the order in which kohya's trainer has them.

    Args:
        asked: STEP or STEP:LEAST:MOST, for all sizes of at most the area of `size` whose sides are
            multiples of a step between two lengths, as kohya's trainer makes them (by default half
            and twice the side of a square of that area); or a list HEIGHTxWIDTH,HEIGHTxWIDTH.
        size: (height, width) of the model.

    Raises:
        ParameterError: it is none of these, or there are no such buckets.

    >>> buckets_named("64:256:1024", (256, 512))
    ((448, 256), (512, 256), (320, 320), (384, 320), (320, 384), (256, 448), (256, 512))
    >>> buckets_named("384x640,512x512", (512, 512))
    ((512, 512), (384, 640))
    """
    if asked is None:
        return ()
    try:
        if "x" in asked:
            pairs = [part.split("x") for part in asked.split(",")]
            found = {(int(height), int(width)) for height, width in pairs}
        else:
            numbers = [int(number) for number in asked.split(":")]
            found = _buckets(size[0] * size[1], *numbers) if min(numbers) > 0 else set()
    except (ValueError, TypeError):
        found = set()
    if not found or min(map(min, found)) < 1:
        raise ParameterError(
            f"--buckets {asked!r} must be STEP or STEP:LEAST:MOST, with sizes between these (64: "
            "is kohya's), or sizes HEIGHTxWIDTH,HEIGHTxWIDTH"
        )
    return tuple(sorted(found, key=lambda bucket: bucket[::-1]))


def _buckets(
    area: int, step: int, least: int | None = None, most: int | None = None
) -> set[tuple[int, int]]:
    side = isqrt(area)
    least, most = least or side // 2, most or 2 * side
    square = side // step * step
    found = {(square, square)}
    for width in range(least, most + 1, step):
        height = min(most, area // width // step * step)
        if height >= least:
            found |= {(height, width), (width, height)}
    return found


def bucket_of(size: tuple[int, int], buckets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The bucket that a picture of this (height, width) is trained in; None where there are none.

    Itself, or the one whose width / height is nearest.
    """
    if size in buckets:
        return size
    return min(buckets, key=lambda b: abs(b[1] / b[0] - size[1] / size[0]), default=None)
