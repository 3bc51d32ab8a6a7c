"""A training set: row -> (id, caption, picture), with ids that survive a restart and a move."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from headwater.data.decode import DAMAGE
from headwater.errors import BadImageError, DatasetError, first_line

# The source of pictures that were given as they are: no later process finds them there.
IN_MEMORY = "(in memory)"
# Control characters and line breaks: a name with one would tear a table or a terminal.
_NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One training image.

    Attributes:
        id: stable and unique.
        caption: "" for none; the first, where there are several.
        uri: where the image is; two with the same have one picture. "" where nobody knows.
        captions: all of them, where there are several; else empty.
        repeats: how often training saw it for each time that it saw one of 1; scores are of one
            look at an image, and do not depend on it.

    >>> Sample("star.png", "a red star", "/photos/star.png").caption
    'a red star'
    """

    id: str
    caption: str
    uri: str
    captions: tuple[str, ...] = ()
    repeats: int = 1

    @property
    def all_captions(self) -> tuple[str, ...]:
        """One or several; "" alone for none."""
        return self.captions or (self.caption,)

    @property
    def caption_line(self) -> str:
        """All captions in one line, for people."""
        return " | ".join(self.all_captions)


def make_sample(id: str, captions: Sequence[str], uri: str, repeats: int = 1) -> Sample:
    """A sample with none, one or several captions; the same one twice counts once."""
    unique = tuple(dict.fromkeys(captions))
    several = unique if len(unique) > 1 else ()
    return Sample(id, unique[0] if unique else "", as_text(uri), several, repeats)


def repeats_line(counts: Mapping[int, int]) -> str:
    """In words, how many images were seen how often.

    >>> repeats_line({1: 40, 10: 1200})
    '40 images once, 1,200 images 10 times'
    """
    parts = [
        f"{n:,} images {'once' if times == 1 else f'{times} times'}"
        for times, n in sorted(counts.items())
    ]
    return ", ".join(parts)


class Captions(Iterable[str]):
    """All captions of all samples, in their order; none is kept between two looks at them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[str]:
        return (text for sample in self._samples for text in sample.all_captions)


@dataclass(frozen=True)
class TrainingSet:
    """Training images by row.

    Attributes:
        source: what was given to `load_dataset`, absolute for local paths, so that a later process
            can open it again (with the same split and columns).
        samples: id, caption and uri of each row.
        open_image: row -> decoded RGB picture; `image` is the same with errors by name.
        fingerprint: sha256, in hex, over a line of JSON `[id, caption, content]` per row; a list
            of captions stands for the caption where there are several.
        options: what else was given to `load_dataset` (split, columns), to open it again.
        contents: what stands for each picture in the fingerprint, by where it comes from. Files of
            a folder, and rows of a `datasets` data set on disk: how many bytes they take (0 where
            missing), for which none is read. Pictures in memory: a sha256 of their pixels as the
            model sees them, or of their bytes as they are stored. Rows of parquet: a digest of
            their row group (see `tables.parquet.group_digest`). Scenes: the bytes of their pixels.

    Example:
        images = load_dataset("scenes")
        few = images.first(100)
        picture, caption = few.image(0), few.samples[0].caption
    """

    source: str
    samples: Sequence[Sample] = field(repr=False)
    open_image: Callable[[int], Image.Image] = field(repr=False)
    fingerprint: str
    contents: Sequence[int | str] = field(default=(), repr=False)
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
        except DAMAGE as error:
            what = f"cannot read the image {sample.id!r} ({sample.uri}): {first_line(error)}"
            raise BadImageError(f"{what}; mend it, or leave it out with `--skip-bad`") from error

    def first(self, n: int) -> TrainingSet:
        """The first n rows (all, where there are fewer), with a fingerprint of their own."""
        return self.take(range(min(max(n, 0), len(self))))

    def take(self, rows: Sequence[int]) -> TrainingSet:
        """These rows, in this order, with a fingerprint of their own."""
        taken = make_training_set(
            self.source,
            [self.samples[row] for row in rows],
            [self.contents[row] for row in rows] if self.contents else (),
            lambda row: self.open_image(rows[row]),
        )
        return replace(taken, options=self.options)


def make_training_set(
    source: str,
    samples: Sequence[Sample],
    contents: Sequence[int | str],
    open_image: Callable[[int], Image.Image],
) -> TrainingSet:
    """A training set with its fingerprint.

    Raises:
        DatasetError: it is empty, two images have one id, or an id or a caption is no text.
    """
    if not samples:
        raise DatasetError(f"{source} holds no images: give at least one")
    id, count = Counter(sample.id for sample in samples).most_common(1)[0]
    if count > 1:
        raise DatasetError(f"{source} has {count} images with the id {id!r}: make it unique")
    digest = hashlib.sha256()
    for sample, content in zip(samples, contents or [0] * len(samples), strict=True):
        _require_text(source, sample)
        line = json.dumps([sample.id, sample.captions or sample.caption, content])
        digest.update(line.encode() + b"\n")
    return TrainingSet(source, samples, open_image, digest.hexdigest(), contents)


def _require_text(source: str, sample: Sample) -> None:
    if not is_text(sample.id):
        raise DatasetError(f"{source} has an id that is no plain text, {sample.id!r}: rename it")
    for caption in sample.all_captions:
        if not is_unicode(caption):
            raise DatasetError(
                f"{source}: the caption of {sample.id!r} is {caption!a}, which holds half a "
                "character (a lone surrogate): write it again"
            )


def is_text(text: str) -> bool:
    """Whether it is Unicode without line breaks and control characters: what a name may be."""
    return text.isprintable() or not any(unicodedata.category(c) in _NO_TEXT for c in text)


def as_text(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 and control characters become escapes."""
    if is_text(name):
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if is_text(c) else ascii(c)[1:-1] for c in text)


def is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8, which half of a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def joined(source: str, sets: Sequence[TrainingSet]) -> TrainingSet:
    """The images of several sets, one set after the other.

    Cannot be opened again by its source, which is a name for people.

    Raises:
        DatasetError: two images have one id.
    """
    places = [(data, row) for data in sets for row in range(len(data))]
    contents = [content for data in sets for content in data.contents or [0] * len(data)]

    def open_image(row: int) -> Image.Image:
        owner, own = places[row]
        return owner.open_image(own)

    samples = [owner.samples[row] for owner, row in places]
    return make_training_set(source, samples, contents, open_image)


def row_ids(n: int) -> list[str]:
    """Ids for images that bring none."""
    return [f"row-{row:08d}" for row in range(n)]
