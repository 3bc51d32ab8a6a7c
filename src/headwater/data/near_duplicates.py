"""Near-copies: pictures that an answer shows as one, because a person would take them for one.

Pictures a, b are compared as small blurred colour thumbnails. Between near-copies the difference
is a small shift and a change of brightness, so what these explain is taken out by least squares
(a tangent distance):

    distance = RMS of  (b - a) - (g m + u dm/dx + v dm/dy),   m = (a + b) / 2,  g, u, v small

Measured on the 2,000 training scenes: the nearest two of them are 0.018 apart (all pairs), while
JPEG at quality 75 moves a scene by at most 0.009 and at quality 50 by 0.011, a shift by one pixel
by 0.010, a cut of one pixel's rim by 0.010, another size by 0.004, brightness by 5% by 0.009.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter

SIDE = 16
THRESHOLD = 0.013
_FULL = 64  # pixels a side in which a picture is blurred
_BLUR = 0.6  # in thumbnail pixels; so smooth that a shift is nearly linear
_MOST = np.array([0.1, 0.5, 0.5])  # brightness by a tenth, shifts by half a thumbnail pixel

Thumbnail = Float[np.ndarray, "16 16 3"]


def distinct(
    pictures: Iterable[Image.Image | None], count: int, most: int, threshold: float = THRESHOLD
) -> list[list[int]]:
    """Positions of pictures, the first of each group with its near-copies after it.

    Reads no further than the first picture that would begin one group too many, and no more than
    `most` pictures. One that is None is near to nothing.
    """
    groups: list[list[int]] = []
    leaders: list[Thumbnail | None] = []
    for position, picture in zip(range(most), pictures, strict=False):
        small = None if picture is None else thumbnail(picture)
        own = _like(small, leaders, threshold)
        if own is not None:
            groups[own].append(position)
        elif len(groups) == count:
            break
        else:
            groups.append([position])
            leaders.append(small)
    return groups


def _like(small: Thumbnail | None, leaders: list[Thumbnail | None], threshold: float) -> int | None:
    """The nearest leader within the threshold."""
    if small is None:
        return None
    near = [(distance(small, leader), i) for i, leader in enumerate(leaders) if leader is not None]
    nearest, which = min(near, default=(np.inf, -1))
    return which if nearest < threshold else None


def thumbnail(picture: Image.Image) -> Thumbnail:
    """16x16 colours from 0 to 1; proportions do not matter."""
    full = picture.convert("RGB").resize((_FULL, _FULL), Image.Resampling.BILINEAR)
    smooth = full.filter(ImageFilter.GaussianBlur(_BLUR * _FULL / SIDE))
    small = smooth.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float64) / 255


def distance(a: Thumbnail, b: Thumbnail) -> float:
    """The RMS of what a small shift and a change of brightness do not explain."""
    mean, difference = (a + b) / 2, (b - a).ravel()
    down, across = np.gradient(mean, axis=(0, 1))
    changes = np.stack([mean.ravel(), across.ravel(), down.ravel()], 1)
    # The small ridge keeps a plain picture, whose gradients are zero, from dividing by zero.
    gram = changes.T @ changes + 1e-6 * np.eye(3)
    amounts = np.clip(np.linalg.solve(gram, changes.T @ difference), -_MOST, _MOST)
    return float(np.sqrt(np.square(difference - changes @ amounts).mean()))
