"""Tensors on their way through features: what goes in, and the rows that come out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import PIL.Image
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
) -> Batch:
    """Images with one or several captions each, encoded; `kept` is a folder that keeps that."""
    counts = [len(own) for own in captions]
    texts = [text for own in captions for text in own]
    x0, condition = encode(denoiser, images, texts, kept)
    if condition is not None:
        shown = [image for image, count in zip(images, counts, strict=True) for _ in range(count)]
        condition = denoiser.placed(condition, shown)
    return Batch(x0, condition, ids, counts if max(counts) > 1 else ())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Rows:
    """Features of a batch, and the residual of each probe where noise was drawn."""

    features: Float[Tensor, "b k"]
    residuals: Float[Tensor, "b p"] | None = None
