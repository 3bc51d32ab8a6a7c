"""Pictures as a model is to see them, and as a person is shown them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL import Image

from headwater.data.decode import DAMAGE, open_picture, upright, without_orientation
from headwater.errors import QueryError, first_line


def to_rgb(image: Any) -> Image.Image:
    """A picture, or a file or the bytes of one, as the model is to see it."""
    if not isinstance(image, Image.Image):
        with open_picture(image) as picture:
            return to_rgb(picture)
    image = upright(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers: save it with 8 or 16 bits")
    if image.mode == "I;16B":  # as TIFF has it, which cannot be scaled
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode.startswith("I"):  # 16-bit greyscale, which `convert` would clip at 255
        image = image.point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return without_orientation(image.convert("RGB"))


PAPER, MAT = "#ffffff", "#f3f5f6"
# An image of at most this many pixels a side is enlarged pixel by pixel, never smoothed.
SMALL = 64


def on_black(image: PIL.Image.Image) -> PIL.Image.Image:
    """A mask as RGB: what was not painted, and so is transparent, does not count."""
    if image.has_transparency_data:
        image = upright(image).convert("RGBA")
        black = PIL.Image.new("RGBA", image.size, "black")
        image = PIL.Image.alpha_composite(black, image)
    return to_rgb(image)


def read_image(
    file: str | Path, view: Callable[[PIL.Image.Image], PIL.Image.Image] = to_rgb
) -> PIL.Image.Image:
    """A picture file as RGB, upright.

    Raises:
        QueryError: it is missing, on the web, or no picture.
    """
    if address := re.match(r"(https?):/+(.*)", str(file)):  # a Path has one slash of the two
        raise QueryError(
            f"the picture {'://'.join(address.groups())!r} is on the web: download it and give the "
            "file"
        )
    try:
        with open_picture(file) as image:
            return view(image)
    except DAMAGE as error:
        raise QueryError(f"cannot read the picture {str(file)!r}: {first_line(error)}") from None


def flatten(image: Image.Image) -> Image.Image:
    """As RGB: what is transparent lies on white, and 16-bit greys are scaled to 8."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, PAPER), image)
    return image.convert("RGB")


def data_uri(image: Image.Image, side: int) -> str:
    """As PNG inside a `data:` address, scaled down, never up, to at most `side` pixels."""
    image = flatten(image)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def scale(image: Image.Image, side: int) -> Image.Image:
    """Fit into a square, keeping the proportions: smoothly, but a small one by whole multiples."""
    longest = max(image.size)
    if longest <= min(SMALL, side):
        factor, filter = side // longest, Image.Resampling.NEAREST
    else:
        factor, filter = side / longest, Image.Resampling.LANCZOS
    width, height = (max(1, round(length * factor)) for length in image.size)
    return image.resize((width, height), filter)
