"""Training images on their way in: opened ahead of time, encoded once, kept by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headwater.denoiser import Denoiser
from headwater.files import read_tensors, write_tensors
from headwater.training_set import TrainingSet

AHEAD = 64  # pictures; enough for the next batch


class Reader:
    """Pictures of consecutive rows, opened in the background before they are asked for."""

    def __init__(self, data: TrainingSet, pool: ThreadPoolExecutor) -> None:
        self._data = data
        self._pool = pool
        self._opening: dict[int, Future[Image.Image]] = {}

    def image(self, row: int) -> Image.Image:
        """The picture of a row; what `TrainingSet.image` raises."""
        for ahead in range(row, min(row + AHEAD, len(self._data))):
            if ahead not in self._opening:
                self._opening[ahead] = self._pool.submit(self._data.image, ahead)
        for passed in [r for r in self._opening if r < row - AHEAD]:  # a batch may be tried again
            del self._opening[passed]
        return self._opening[row].result()


@contextmanager
def reading(data: TrainingSet) -> Iterator[Reader]:
    """A reader of this data set; its thread ends with the block."""
    pool = ThreadPoolExecutor(1, "headwater-images")
    try:
        yield Reader(data, pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def encode(
    denoiser: Denoiser,
    images: Sequence[Image.Image],
    captions: Sequence[str],
    kept: Path | None = None,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b l e"] | None]:
    """(x0, condition) of images with their captions.

    With `kept`, a folder, each is looked up there by its content and by the weights that encode
    it, and written there if it is new. A file that is damaged counts as new.
    """
    if kept is None:
        return denoiser.encode_images(images), denoiser.encode_captions(captions)
    folder = kept / denoiser.encoders_fingerprint()[:32]
    pixels = [np.asarray(image.convert("RGB")) for image in images]
    keys = [hashlib.sha256(f"{p.shape}".encode() + p.tobytes()).hexdigest() for p in pixels]
    x0 = _looked_up(
        folder / "images", keys, lambda new: denoiser.encode_images([images[i] for i in new])
    )
    if not denoiser.conditional:
        return x0.to(denoiser.device), None
    keys = [hashlib.sha256(caption.encode()).hexdigest() for caption in captions]

    def encode_new(new: Sequence[int]) -> Tensor:
        encoded = denoiser.encode_captions([captions[i] for i in new])
        assert encoded is not None
        return encoded

    condition = _looked_up(folder / "captions", keys, encode_new)
    return x0.to(denoiser.device), condition.to(denoiser.device)


def _looked_up(folder: Path, keys: Sequence[str], compute) -> Tensor:
    """One tensor for each key: from `folder`, or computed together and written there."""
    found = {key: _read(folder, key) for key in dict.fromkeys(keys)}
    new = [key for key, tensor in found.items() if tensor is None]
    if new:
        for key, tensor in zip(new, compute([keys.index(key) for key in new]).cpu(), strict=True):
            write_tensors(_file(folder, key), {"encoded": tensor}, {})
            found[key] = tensor
    return torch.stack([found[key] for key in keys])  # pyright: ignore - none is None any more


def _read(folder: Path, key: str) -> Tensor | None:
    kept = read_tensors(_file(folder, key))
    return None if kept is None else kept["encoded"]


def _file(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.safetensors"
