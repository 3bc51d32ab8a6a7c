"""Where the captions of an image folder stand, as `datasets` and the trainers of others write them.

Read are, in this order, and the first that has a caption for an image counts:

- `metadata.jsonl`, `metadata.csv`, `metadata.parquet` of `datasets`, in any folder: rows with a
  `file_name`, and captions under one of `captions.KEYS`;
- `meta_lat.json`, `meta_clean.json`, `meta_cap_dd.json`, `meta_cap.json` of kohya's scripts, from
  the last of its steps to the first: `{image: {"caption": ..., "tags": ...}}`, joined as there;
- `captions.txt` beside a folder `images/`, as the AbC benchmark has it: a line for each file in
  there, in the order of their names. With another number of lines it is something else;
- a file with the image's name and `.txt` or `.caption`. Each of its lines is one caption: kohya's
  scripts train on the first line, or draw one where wildcards are on.
"""

from __future__ import annotations

import json
import posixpath
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from headwater.data.captions import KEYS, CaptionReader, lines_of
from headwater.data.folders.listing import Listing, without_suffix
from headwater.data.tables.rows import rows_of
from headwater.errors import DatasetError, HeadwaterWarning, first_line

Captions = dict[str, tuple[str, ...]]
CAPTION_SUFFIXES = (".txt", ".caption")


@dataclass(frozen=True)
class Named:
    """One image's row of a metadata file; `where` it stands is for people."""

    file_name: str
    values: Mapping[str, Any]
    where: str


# --- all captions of a folder ---------------------------------------------------------------------


def folder_captions(listing: Listing, images: Sequence[str], key: str | None) -> Captions:
    """Captions by image; one that has none is not in it.

    Args:
        images: the names among those of the listing that captions are wanted for.
        key: under which captions stand in metadata files; None for the usual ones.

    Raises:
        DatasetError: a file cannot be read, or names an image that is not there; no metadata file
            has `key`.
    """
    reader = CaptionReader(str(listing.folder))
    captions = _of_metadata(listing, set(images), key, reader)
    if key and not captions:
        files = "metadata.jsonl, .csv, .parquet or meta_cap.json"
        raise DatasetError(f"no {files} in {listing.folder} has {key!r}: check --caption-column")
    _add_files_beside(captions, listing, images, reader)
    reader.warn()
    return captions


def _of_metadata(
    listing: Listing, wanted: set[str], key: str | None, reader: CaptionReader
) -> Captions:
    names = _Names(listing)
    files: dict[str, list[str]] = {}
    for name in listing.names:
        last = name.rpartition("/")[2]
        if last in _METADATA:
            files.setdefault(last, []).append(name)
    captions: Captions = {}
    overruled: list[str] = []
    for kind, named_of in _METADATA.items():
        own: Captions = {}
        for file in (listing.folder / name for name in files.get(kind, ())):
            for row in named_of(file, key):
                name = names.resolve(file, row)
                texts = reader.read_row(row.values, key, row.where)
                if name in wanted and texts:
                    own[name] = (*own.get(name, ()), *texts)
        overruled += [f"{n!r} ({kind})" for n in own if captions.get(n, own[n]) != own[n]]
        captions = own | captions
    if overruled:
        _warn(
            f"{listing.folder}: {len(overruled)} caption(s) differ from those of another metadata "
            f"file, which are read instead, such as that of {overruled[0]}; keep one file"
        )
    return captions


class _Names:
    """What metadata files may name: every file there is, and images without their suffix."""

    def __init__(self, listing: Listing) -> None:
        self._folder = listing.folder
        self._names = {*listing.names, *listing.irregular}
        self._images = listing.images

    @cached_property
    def _stems(self) -> dict[str, str]:
        return {without_suffix(name): name for name in self._images}

    def resolve(self, file: Path, row: Named) -> str:
        """The image of a row, relative to the folder.

        Raises:
            DatasetError: there is none.
        """
        at = file.parent.relative_to(self._folder).as_posix()
        name = posixpath.normpath(posixpath.join(at, row.file_name))
        if posixpath.isabs(name):
            name = posixpath.relpath(name, self._folder)
        if name in self._names:
            return name
        if file.name in _KOHYA:  # which leaves suffixes out, and keeps where images once were
            here = posixpath.normpath(posixpath.join(at, posixpath.basename(row.file_name)))
            for stem in (name, here, posixpath.splitext(here)[0]):
                if stem in self._stems:
                    return self._stems[stem]
        raise DatasetError(f"{row.where}: there is no image {name!r}; add it or drop the line")


def caption_files(image: str) -> list[str]:
    """The names of the files beside an image that may hold its caption."""
    return [without_suffix(image) + suffix for suffix in CAPTION_SUFFIXES]


def _add_files_beside(
    captions: Captions, listing: Listing, images: Sequence[str], reader: CaptionReader
) -> None:
    names = set(listing.names)
    several, unread = [], []
    for image in images:
        beside = [name for name in caption_files(image) if name in names]
        if beside and image not in captions:
            file = beside.pop(0)
            lines = lines_of(_text(listing.folder / file))
            captions[image] = reader.read(lines, str(listing.folder / file))
            several += [file] if len(captions[image]) > 1 else []
        unread += beside
    if several:
        _warn(
            f"{listing.folder}: {len(several)} caption file(s) have several lines, such as "
            f"{several[0]!r}; each line is one caption"
        )
    if unread:
        _warn(
            f"{listing.folder}: {len(unread)} caption file(s) are not read, such as {unread[0]!r}: "
            "the caption of their image stands in a metadata file or in a .txt file"
        )


# --- metadata files -------------------------------------------------------------------------------


def _named(file: Path, key: str | None) -> Iterator[Named]:
    """The rows of a table with a column `file_name`."""
    for row in rows_of(file, ["file_name", *([key] if key else KEYS)]):
        name = row.values.get("file_name")
        if not isinstance(name, str):
            raise DatasetError(
                f"{row.where}: write a JSON object or a row whose column `file_name` names an image"
            )
        yield Named(name, row.values, row.where)


def _kohya(file: Path, key: str | None) -> Iterator[Named]:
    try:
        images = json.loads(_text(file)).items()
        rows = [Named(name, {key or KEYS[0]: _joined(row, key)}, f"{file} {name!r}")
                for name, row in images]  # fmt: skip
    except (ValueError, TypeError, AttributeError) as error:
        form = '{image: {"caption": ..., "tags": ...}}'
        raise DatasetError(f"cannot read {file} ({first_line(error)}): write {form}") from error
    yield from rows


def _joined(row: Mapping[str, Any], key: str | None) -> Any:
    """The caption and the tags of an image, joined as kohya's scripts do."""
    if key:
        return row.get(key, ())
    caption, tags = row.get("caption"), row.get("tags")
    both = isinstance(caption, str) and isinstance(tags, str) and tags
    return f"{caption},{tags}" if both else tags if caption is None else caption


def _lines(file: Path, key: str | None) -> Iterator[Named]:
    """The lines of `captions.txt`, if there are as many as files in `images/`."""
    folder = file.parent / "images"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    names = [name for name in names if not name.startswith(".")]
    lines = _text(file).removesuffix("\n").split("\n")
    if len(names) != len(lines):
        there = f"{len(names)} files in images/" if folder.is_dir() else "no images/"
        _warn(f"{file} is not read: it has {len(lines)} line(s), and beside it is {there}")
        return
    for number, (name, line) in enumerate(zip(names, lines, strict=True), 1):
        yield Named(f"images/{name}", {key or KEYS[0]: line.strip()}, f"{file} line {number}")


_KOHYA = ("meta_lat.json", "meta_clean.json", "meta_cap_dd.json", "meta_cap.json")
_METADATA: dict[str, Callable[[Path, str | None], Iterator[Named]]] = {
    "metadata.jsonl": _named,
    "metadata.csv": _named,
    "metadata.parquet": _named,
    **dict.fromkeys(_KOHYA, _kohya),
    "captions.txt": _lines,
}
METADATA_FILES = tuple(_METADATA)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {first_line(error)}; save it as UTF-8 text") from error


def _warn(text: str) -> None:
    warnings.warn(text, HeadwaterWarning, stacklevel=3)
