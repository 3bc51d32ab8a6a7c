"""Training images on their way in: opened ahead of time, encoded once, kept by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headwater.models.denoiser import Denoiser
from headwater.storage.files import read_tensors, write_tensors


def encode(
    denoiser: Denoiser,
    images: Sequence[Image.Image],
    captions: Sequence[str],
    kept: Path | None = None,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "n l e"] | None]:
    """(x0, condition) of images, and of captions: as many as there are images, or more.

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
