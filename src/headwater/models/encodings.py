"""Training images on their way in: opened ahead of time, encoded once, kept by their content."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headwater.errors import HeadwaterWarning
from headwater.models.condition import Condition, joined
from headwater.models.denoiser import Denoiser
from headwater.storage.files import read_tensors, remove_abandoned, write_tensors

_KINDS = LATENTS, CONDITIONS = "latents", "conditions"


def encode(
    denoiser: Denoiser,
    images: Sequence[Image.Image],
    captions: Sequence[str],
    kept: Path | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Float[Tensor, "b c *f h w"], Condition | None]:
    """(x0, condition) of images, and of captions: as many as there are images, or more.

    With `kept`, a folder, each is looked up there by its content and by the weights that encode
    it, and written there if it is new. A file that is damaged counts as new.

    Args:
        size: (height, width) of pictures in pixels; None for the model's own.
    """
    if kept is None:
        return denoiser.encode_images(images, size), denoiser.encode_captions(captions)
    folder = kept / denoiser.encoders_fingerprint()[:32]
    pixels = [np.asarray(image.convert("RGB")) for image in images]
    at = "" if size in (None, denoiser.image_size) else f" at {size}"
    keys = [hashlib.sha256(f"{p.shape}{at}".encode() + p.tobytes()).hexdigest() for p in pixels]

    def encode_images(new: Sequence[int]) -> Condition:
        return Condition({"x0": denoiser.encode_images([images[i] for i in new], size)})

    x0 = _looked_up(folder / LATENTS, keys, encode_images).tensors["x0"]
    if not denoiser.conditional:
        return x0.to(denoiser.device), None
    keys = [hashlib.sha256(caption.encode()).hexdigest() for caption in captions]

    def encode_captions(new: Sequence[int]) -> Condition:
        encoded = denoiser.encode_captions([captions[i] for i in new])
        assert encoded is not None
        return encoded

    condition = _looked_up(folder / CONDITIONS, keys, encode_captions).to(denoiser.device)
    words = denoiser.family.words
    assert words is not None, "it is conditional"
    return x0.to(denoiser.device), denoiser.remembered(condition, captions, words.encode)


def remove_unfinished(kept: Path) -> None:
    """Remove what kills left in a folder of `encode`, whichever models it is of.

    Several builds may write into it at the same time.
    """
    for kind in _KINDS:
        remove_abandoned(*kept.glob(f"*/{kind}/??"))


def warn_of_lost_words(denoiser: Denoiser, captions: Iterable[str]) -> None:
    """Warn (HeadwaterWarning) of captions longer than the text encoder takes."""
    cut, words = denoiser.cut_prompts(captions), denoiser.family.words
    if cut and words is not None:
        caption, (_, lost) = next(iter(cut.items()))
        warnings.warn(
            f"{len(cut)} caption(s) longer than the {words.token_limit} tokens that the text "
            f"encoder takes; {caption[:60]!r} lost the words {lost[:60]!r}",
            HeadwaterWarning,
            stacklevel=2,
        )


def _looked_up(
    folder: Path, keys: Sequence[str], compute: Callable[[Sequence[int]], Condition]
) -> Condition:
    """A row for each key: from `folder`, or computed together and written there."""
    found: dict[str, Condition] = {}
    for key in dict.fromkeys(keys):
        tensors = read_tensors(_file(folder, key))
        if tensors is not None:
            found[key] = Condition(tensors)
    new = [key for key in dict.fromkeys(keys) if key not in found]
    if new:
        computed = compute([keys.index(key) for key in new]).to("cpu")
        for row, key in enumerate(new):
            found[key] = computed[[row]]
            write_tensors(_file(folder, key), dict(found[key].tensors), {})
    return joined([found[key] for key in keys])


def _file(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.safetensors"
