"""Features that are no gradients: the picture itself, as latents or by an embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headwater.features.batch import Rows
from headwater.models.denoiser import Denoiser


@dataclass(frozen=True)
class Embedder:
    """Makes rows from pictures alone."""

    dim: int
    embed: Callable[[Sequence[Image.Image]], Float[Tensor, "b k"]]

    def image_rows(
        self,
        images: Sequence[Image.Image],
        captions: Sequence[Sequence[str]],
        ids: Sequence[str],
        encodings: Path | None = None,
    ) -> Rows:
        """Features of training samples; captions and ids do not matter."""
        return Rows(self.embed(images))


def latents(denoiser: Denoiser, images: Sequence[Image.Image]) -> Float[Tensor, "b k"]:
    """x0, flat: pixels, or the latents of a model that has an autoencoder."""
    return denoiser.encode_images(images).flatten(1).float()
