"""A training set: row -> (id, caption, picture), with ids that survive a restart and a move."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image, UnidentifiedImageError

from headwater.errors import BadImageError, DatasetError, first_line

# What Pillow has been seen to raise on damaged files, beside DecompressionBombError.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, OverflowError, struct.error)


@dataclass(frozen=True)
class Sample:
    """One training image: a stable, unique id, its caption ("" for none), and where it is."""

    id: str
    caption: str
    uri: str


@dataclass(frozen=True)
class TrainingSet:
    """Training images by row.

    Attributes:
        source: what was given to `load_dataset`, absolute for local paths, so that a later process
            can open it again (with the same split and columns).
        samples: id, caption and uri of each row.
        open_image: row -> decoded RGB picture; `image` is the same with errors by name.
        fingerprint: sha256, in hex, over a line of JSON `[id, caption, byte length]` per row. No
            image is decoded for it: it does not see pixels that change within the same length.
        options: what else was given to `load_dataset` (split, columns), to open it again.
        byte_lengths: of the images as they are stored, 0 where missing; of their pixels (width x
            height x bands) where they are drawn or were given in memory.
    """

    source: str
    samples: Sequence[Sample] = field(repr=False)
    open_image: Callable[[int], Image.Image] = field(repr=False)
    fingerprint: str
    byte_lengths: Sequence[int] = field(default=(), repr=False)
    options: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, row: int) -> Image.Image:
        """The picture of a row as RGB, upright by its EXIF, transparency on white.

        Raises:
            BadImageError: its file or bytes are missing, truncated or no image.
        """
        sample = self.samples[row]
        try:
            return self.open_image(range(len(self))[row])
        except (*_DAMAGE, Image.DecompressionBombError) as error:
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "it is no image" if unknown else first_line(error)
            what = f"cannot read the image {sample.id!r} ({sample.uri}): {reason}"
            raise BadImageError(f"{what}; mend it, or leave it out with `--skip-bad`") from error

    def first(self, n: int) -> TrainingSet:
        """The first n rows (all, where there are fewer), with a fingerprint of their own."""
        return self.take(range(min(max(n, 0), len(self))))

    def take(self, rows: Sequence[int]) -> TrainingSet:
        """These rows, in this order, with a fingerprint of their own."""
        taken = make_training_set(
            self.source,
            [self.samples[row] for row in rows],
            [self.byte_lengths[row] for row in rows] if self.byte_lengths else (),
            lambda row: self.open_image(rows[row]),
        )
        return replace(taken, options=self.options)


def make_training_set(
    source: str,
    samples: Sequence[Sample],
    byte_lengths: Sequence[int],
    open_image: Callable[[int], Image.Image],
) -> TrainingSet:
    """A training set with its fingerprint.

    Raises:
        DatasetError: it is empty, or two images have one id.
    """
    if not samples:
        raise DatasetError(f"{source} holds no images: give at least one")
    id, count = Counter(sample.id for sample in samples).most_common(1)[0]
    if count > 1:
        raise DatasetError(f"{source} has {count} images with the id {id!r}: make it unique")
    for sample in samples:
        if not sample.id.isprintable():  # a file name that is no UTF-8, for instance
            raise DatasetError(
                f"{source} has an id that is no plain text, {sample.id!r}: rename it"
            )
    digest = hashlib.sha256()
    for sample, length in zip(samples, byte_lengths or [0] * len(samples), strict=True):
        digest.update(json.dumps([sample.id, sample.caption, length]).encode() + b"\n")
    return TrainingSet(source, samples, open_image, digest.hexdigest(), byte_lengths)


def joined(source: str, sets: Sequence[TrainingSet]) -> TrainingSet:
    """The images of several sets, one set after the other.

    Cannot be opened again by its source, which is a name for people.

    Raises:
        DatasetError: two images have one id.
    """
    places = [(each, row) for each in sets for row in range(len(each))]
    sizes = [each.byte_lengths or [0] * len(each) for each in sets]

    def open_image(row: int) -> Image.Image:
        owner, own = places[row]
        return owner.open_image(own)

    samples = [owner.samples[row] for owner, row in places]
    return make_training_set(source, samples, [size for each in sizes for size in each], open_image)


def row_ids(n: int) -> list[str]:
    """Ids for images that bring none."""
    return [f"row-{row:08d}" for row in range(n)]
