"""Folders of image files."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from headwater.data.decode import SUFFIXES, unread_kinds
from headwater.data.folders import splits
from headwater.data.folders.kohya import repeated, warn_of_repeats
from headwater.data.folders.listing import (
    IMAGE_KINDS,
    Listing,
    file_size,
    suffix_of,
    warn_of_skipped_folders,
)
from headwater.data.folders.metadata import METADATA_FILES, caption_files, folder_captions
from headwater.data.images import to_rgb
from headwater.data.request import Request
from headwater.data.training_set import TrainingSet, as_text, make_sample, make_training_set
from headwater.errors import DatasetError, HeadwaterWarning

# What people keep beside images and nobody takes for data.
_DOCUMENTS = {
    "", ".md", ".rst", ".html", ".pdf", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".log", ".py",
    ".sh", ".ipynb", ".db",
}  # fmt: skip


def is_image_folder(request: Request) -> bool:
    """Whether it is a folder with an image in it, or with nothing but images that are not read."""
    if not request.path.is_dir():
        return False
    listing = request.listing
    return bool(listing.images or (unread_kinds(listing.kinds) and not listing.parquet))


def open_image_folder(request: Request) -> TrainingSet:
    """The images of one split, with their captions; ids are file names below the folder.

    Raises:
        DatasetError: no such split; a metadata file is wrong.
    """
    listing = request.listing
    folder = listing.folder
    if request.image_column:
        raise DatasetError(f"{folder} holds image files, not columns: leave --image-column out")
    names = splits.choose(folder, listing.images, splits.of_images(listing.images), request.split)
    warn_of_skipped_folders(listing)
    _warn_of_unread_files(listing)
    captions = folder_captions(listing, names, request.caption_column) if request.captions else {}
    ids = _ids(folder, names)
    if request.captions:
        warn_of_repeats(folder, names, captions)
    samples = []
    for id, name in zip(ids, names, strict=True):
        own = repeated(name)
        texts = captions.get(name, (own.words,) if own and request.captions else ())
        samples.append(make_sample(id, texts, f"{folder.name}/{id}", own.repeats if own else 1))
    sizes = [file_size(f"{folder}/{name}") for name in names]
    return make_training_set(str(folder), samples, sizes, lambda row: to_rgb(folder / names[row]))


def _ids(folder: Path, names: Sequence[str]) -> list[str]:
    """File names; what is no text in one is written as an escape."""
    ids = [as_text(name) for name in names]
    escaped = [id for id, name in zip(ids, names, strict=True) if id != name]
    if escaped:
        text = (
            f"{folder}: {len(escaped)} file name(s) are no plain text and are written with "
            f"escapes, such as {escaped[0]}"
        )
        warnings.warn(text, HeadwaterWarning, stacklevel=3)
    return ids


def _warn_of_unread_files(listing: Listing) -> None:
    """Say what lies in the folder and is read neither as an image nor as a caption."""
    read = {file for image in listing.images for file in (image, *caption_files(image))}
    names = [name for name in (*listing.names, *listing.irregular) if name not in read]
    names = [name for name in names if name.rpartition("/")[2] not in METADATA_FILES]
    if unread := unread_kinds(listing.kinds):
        warnings.warn(f"{listing.folder}: {unread}", HeadwaterWarning, stacklevel=3)
    kinds = Counter(suffix_of(name) for name in names)
    known = {*_DOCUMENTS, *SUFFIXES}
    counts = [f"{n} {kind}" for kind, n in kinds.most_common() if kind not in known]
    if counts:
        text = (
            f"{listing.folder}: files that are not read are left out ({', '.join(counts)}); images "
            f"are {IMAGE_KINDS}, a .txt or .caption has the name of its image"
        )
        warnings.warn(text, HeadwaterWarning, stacklevel=3)
