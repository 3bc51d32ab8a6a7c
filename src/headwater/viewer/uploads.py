"""Pictures that people give a page: of bounded size, decoded with care, in its own folder.

What is kept is written anew from the pixels alone, so that nothing else of a file is.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from headwater.data.decode import DAMAGE, open_picture
from headwater.data.images import to_rgb
from headwater.errors import QueryError, first_line

MOST_BYTES = 20_000_000
MOST_PIXELS = 40_000_000
LONGEST = 1024  # of a picture that is kept; models see less


def picture_of(file: Path) -> PIL.Image.Image:
    """The picture in an upload, as RGB, scaled down where it is large.

    Raises:
        QueryError: it is too large, or no picture.
    """
    image = _decoded(file, to_rgb)
    image.thumbnail((LONGEST, LONGEST), PIL.Image.Resampling.LANCZOS)
    return image


def mask_of(layers: Sequence[Path], size: tuple[int, int]) -> PIL.Image.Image | None:
    """White where any layer was painted; None where nothing was.

    Raises:
        QueryError: a layer is too large, or no picture.
    """
    painted = np.zeros(size[::-1], bool)
    for layer in layers:
        alpha = _decoded(layer, lambda image: image.convert("RGBA").getchannel("A"))
        painted |= np.asarray(alpha.resize(size, PIL.Image.Resampling.NEAREST)) > 0
    if not painted.any():
        return None
    return PIL.Image.fromarray(np.uint8(255) * painted).convert("L")


def kept(folder: Path, image: PIL.Image.Image) -> Path:
    """The picture as a file of this folder, named after its contents."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    path = folder / f"{hashlib.sha256(buffer.getvalue()).hexdigest()[:32]}.png"
    if not path.exists():
        path.write_bytes(buffer.getvalue())
    return path


def _decoded(file: Path, view: Callable[[PIL.Image.Image], PIL.Image.Image]) -> PIL.Image.Image:
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise QueryError(
            f"the picture has {size / 1e6:,.0f} MB, more than {MOST_BYTES // 10**6}: scale it down"
        )
    try:
        with open_picture(file) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise QueryError(
                    f"the picture has {width:,} x {height:,} pixels, more than "
                    f"{MOST_PIXELS // 10**6} million: scale it down"
                )
            return view(image)
    except DAMAGE as error:
        raise QueryError(f"the picture cannot be read: {first_line(error)}") from None
