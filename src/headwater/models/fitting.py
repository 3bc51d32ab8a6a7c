"""Pictures on their way to a model's size: scaled, then cut in the middle."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageOps


class Fit(NamedTuple):
    """What became of a picture: sizes are (height, width) in pixels.

    Attributes:
        original: as it came.
        cut: what was cut off above and at the left, after scaling.
        size: what is left.
    """

    original: tuple[int, int]
    cut: tuple[int, int]
    size: tuple[int, int]


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at this (height, width): the largest middle part of its shape."""
    height, width = size
    return ImageOps.fit(image.convert("RGB"), (width, height))


def fit_of(image: Image.Image, size: tuple[int, int]) -> Fit:
    """What `fitted` does to it.

    >>> fit_of(Image.new("RGB", (300, 100)), (50, 50))
    Fit(original=(100, 300), cut=(0, 50), size=(50, 50))
    """
    height, width = size
    scale = max(height / image.height, width / image.width)
    over = image.height * scale - height, image.width * scale - width
    cut = round(over[0] / 2), round(over[1] / 2)
    return Fit((image.height, image.width), cut, size)
