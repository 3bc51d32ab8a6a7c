"""Tensors on their way through features: what goes in, and the rows that come out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.models.condition import Condition
from headwater.models.denoiser import Denoiser
from headwater.models.encodings import encode


@dataclass(frozen=True)
class Batch:
    """Clean latents, the conditions of their captions, and the ids that their noise belongs to.

    Attributes:
        condition: of each image's caption; where `counts` says how many an image has, those of
            its first image, then those of its second, and so on.
        counts: captions of each image; empty where each has one.
    """

    x0: Float[Tensor, "b c *f h w"]
    condition: Condition | None
    ids: Sequence[str] = ()
    counts: Sequence[int] = ()

    def drawn(self, keys: Sequence[str]) -> Condition | None:
        """The condition of one caption of each image, drawn uniformly by the hash of its key.

        A model is trained so: at each step an image comes with one of its captions. The same key
        draws the same caption on every machine.
        """
        if self.condition is None or not self.counts:
            return self.condition
        starts = accumulate(self.counts, initial=0)
        return self.condition[[
            start + _hash(f"caption|{key}") % count
            for start, count, key in zip(starts, self.counts, keys, strict=False)
        ]]  # fmt: skip

    def part(self, rows: Sequence[int]) -> Batch:
        """These rows of it, of images that have a caption each."""
        assert not self.counts, "a part of a batch of several captions is never asked for"
        rows = list(rows)
        condition = None if self.condition is None else self.condition[rows]
        return Batch(self.x0[rows], condition, [self.ids[row] for row in rows])


def encoded_batch(
    denoiser: Denoiser,
    images: Sequence[PIL.Image.Image],
    captions: Sequence[Sequence[str]],
    ids: Sequence[str] = (),
    kept: Path | None = None,
    size: tuple[int, int] | None = None,
) -> Batch:
    """Images with one or several captions each, encoded.

    Args:
        kept: a folder that keeps what is encoded.
        size: (height, width) of pictures in pixels; None for the model's own.
    """
    counts = [len(own) for own in captions]
    texts = [text for own in captions for text in own]
    x0, condition = encode(denoiser, images, texts, kept, size)
    if condition is not None:
        shown = [image for image, count in zip(images, counts, strict=True) for _ in range(count)]
        condition = denoiser.placed(condition, shown, size)
    return Batch(x0, condition, ids, counts if max(counts) > 1 else ())


def training_batches(
    denoiser: Denoiser,
    images: Sequence[PIL.Image.Image],
    captions: Sequence[Sequence[str]],
    ids: Sequence[str],
    kept: Path | None = None,
) -> Iterator[tuple[list[int], Batch]]:
    """Training images as they were trained, a batch for each bucket: which they are, and these."""
    for size, rows in denoiser.by_size(images).items():
        shown, texts = [images[row] for row in rows], [captions[row] for row in rows]
        yield rows, encoded_batch(denoiser, shown, texts, [ids[row] for row in rows], kept, size)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Rows:
    """Features of a batch, and the residual of each probe where noise was drawn."""

    features: Float[Tensor, "b k"]
    residuals: Float[Tensor, "b p"] | None = None


def rows_joined(parts: Sequence[Rows], places: Sequence[int]) -> Rows:
    """Rows of several batches as one, each in its place.

    Args:
        places: of the rows, one part after the other.
    """
    residuals = [part.residuals for part in parts if part.residuals is not None]
    return Rows(
        in_order(torch.cat([part.features for part in parts]), places),
        in_order(torch.cat(residuals), places) if residuals else None,
    )


def in_order(rows: Float[Tensor, "b ..."], places: Sequence[int]) -> Float[Tensor, "b ..."]:
    """Rows put in their places; the same tensor where they are."""
    if list(places) == list(range(len(places))):
        return rows
    return rows[torch.tensor(places, device=rows.device).argsort()]
