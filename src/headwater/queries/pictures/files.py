"""Files that a question is about: a picture, and a mask over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.data.images import on_black, read_image
from headwater.errors import QueryError
from headwater.models.denoiser import Denoiser
from headwater.models.fitting import fitted
from headwater.models.sampling import Picture
from headwater.storage.files import sha256_of


def open_picture(denoiser: Denoiser, file: str | Path) -> Picture:
    """The picture in a file, encoded.

    Raises:
        QueryError: it is missing or no picture.
    """
    image = read_image(file)
    return Picture(image, denoiser.encode_images([image]).to(denoiser.latent_dtype))


def file_facts(file: str | Path | None, mask: str | Path | None) -> dict[str, str]:
    """Paths and checksums of the files that a question is about, for provenance."""
    files = {"picture": file, "mask": mask}
    return {
        name: value
        for part, path in files.items()
        if path is not None
        for name, value in ((part, str(path)), (f"{part} sha256", file_digest(path)))
    }


def file_contents(file: str | Path | None, mask: str | Path | None) -> list[str]:
    """sha256 of the files that a question is about, wherever they lie."""
    return [file_digest(path) for path in (file, mask) if path is not None]


def file_digest(file: str | Path) -> str:
    """sha256 of a picture.

    Raises:
        QueryError: it is missing or no picture.
    """
    read_image(file)  # what is missing or no picture is refused by name
    return sha256_of(Path(file))


def read_mask(file: str | Path, size: tuple[int, int]) -> PIL.Image.Image:
    """A mask over a picture of this (width, height), in grey.

    Raises:
        QueryError: unreadable, or of another size than the picture.
    """
    mask = read_image(file, on_black).convert("L")
    if mask.size != size:
        raise QueryError(
            f"--mask {str(file)!r} is {mask.width}x{mask.height}, the picture is "
            f"{size[0]}x{size[1]}: paint it over the picture itself"
        )
    return mask


def latent_mask(
    denoiser: Denoiser, file: str | Path, size: tuple[int, int]
) -> Float[Tensor, "1 1 h w"]:
    """A mask of a picture of this (width, height) brought to latent size by area, from 0 to 1.

    Raises:
        QueryError: unreadable, of another size than the picture, or black all over.
    """
    mask = read_mask(file, size)
    pixels = torch.from_numpy(np.asarray(fitted(mask, denoiser.image_size), np.float32) / 255)
    rows, columns = denoiser.latent_shape[-2:]
    whole = torch.nn.functional.adaptive_avg_pool2d(pixels[None, None], (rows, columns))
    if not whole.any():
        raise QueryError(f"--mask {str(file)!r} is black all over: paint what counts in white")
    return whole.to(denoiser.device, denoiser.latent_dtype)
