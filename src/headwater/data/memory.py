"""Pictures in memory as a training set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from headwater.data.decode import DAMAGE
from headwater.data.images import to_rgb
from headwater.data.training_set import (
    IN_MEMORY,
    TrainingSet,
    make_sample,
    make_training_set,
    row_ids,
)
from headwater.errors import DatasetError


def from_images(
    images: Sequence[Image.Image | np.ndarray],
    captions: Sequence[str | Sequence[str]],
    ids: Sequence[str] | None = None,
) -> TrainingSet:
    """Pictures in memory; without ids they are `row-00000000` and on.

    Args:
        images: of Pillow, or arrays of uint8: [h, w], [h, w, 3] or [h, w, 4].
        captions: a text for each, "" for none; or several in a list.

    Raises:
        DatasetError: not as many of each, something else among them, or ids that are not unique.

    >>> black = np.zeros((8, 8, 3), np.uint8)
    >>> from_images([black], ["a black square"], ids=["black"]).samples[0].id
    'black'
    """
    for name, values in (("images", images), ("captions", captions)):
        if not hasattr(values, "__len__") or isinstance(values, (str, bytes)):
            raise DatasetError(
                f"{name} must be a list, not {values!r:.40}: give one for each image"
            )
    ids = row_ids(len(images)) if ids is None else [str(id) for id in ids]
    if not len(images) == len(captions) == len(ids):
        counts = f"{len(images)} images, {len(captions)} captions, {len(ids)} ids"
        raise DatasetError(f"{counts}: give as many of each")
    pictures = [_picture(image, row) for row, image in enumerate(images)]
    samples = [
        make_sample(id, _texts(caption, row), f"{IN_MEMORY}#row={row}")
        for row, (id, caption) in enumerate(zip(ids, captions, strict=True))
    ]
    contents = [_pixel_digest(picture) for picture in pictures]
    return make_training_set(IN_MEMORY, samples, contents, lambda row: to_rgb(pictures[row]))


def _picture(image: Any, row: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4)):
            return Image.fromarray(image)
    given = type(image).__name__
    if isinstance(image, np.ndarray):
        given = f"an array of {image.dtype} of shape {image.shape}"
    raise DatasetError(
        f"image {row} is {given}: give pictures of Pillow or arrays of uint8 of shape (h, w, 3); "
        "for files, load_dataset with their folder"
    )


def _texts(caption: Any, row: int) -> Sequence[str]:
    texts = caption if isinstance(caption, (list, tuple)) else [caption]
    for text in texts:
        if not isinstance(text, str):
            raise DatasetError(
                f'the caption of image {row} is {text!r:.40}: give text, "" for none'
            )
    return texts


def _pixel_digest(picture: Image.Image) -> str:
    """The sha256 of the size and the pixels that the model is to see."""
    try:
        pixels = to_rgb(picture)
    except DAMAGE:
        return "unreadable"  # which is said when it is opened
    return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
