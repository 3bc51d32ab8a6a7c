"""What lies in a folder: files by name, links followed, what headwater itself wrote left out."""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from headwater.data.decode import SUFFIXES, can_read
from headwater.errors import DatasetError, HeadwaterWarning

IMAGE_KINDS = " ".join(SUFFIXES)
# `storage.manifest.FORMAT`, which is not imported because that would load torch.
INDEX_FORMAT = "headwater-index"
# Pictures that stand in the folder of an answer itself.
_OF_ANSWERS = ("query.png", "journey.png", "top.png", "bottom.png")


@dataclass(frozen=True)
class Listing:
    """The files in a folder and below, hidden ones left out.

    Attributes:
        folder: what is listed.
        names: of regular files, relative to it, with `/`, sorted.
        irregular: of pipes, devices, and links to nothing.
        own: folders that headwater wrote, an index or an answer; what is in them is in no list.
        cycles: links to a folder that they lie in; they are not followed.
    """

    folder: Path
    names: Sequence[str]
    irregular: Sequence[str] = ()
    own: Sequence[str] = ()
    cycles: Sequence[str] = ()

    @cached_property
    def images(self) -> list[str]:
        """Names that end as images do that are read here, sorted."""
        return sorted(n for n in (*self.names, *self.irregular) if is_image_name(n))

    @cached_property
    def kinds(self) -> Counter[str]:
        """How many files there are of each suffix."""
        return Counter(suffix_of(name) for name in (*self.names, *self.irregular))

    @cached_property
    def parquet(self) -> list[str]:
        """Names of parquet files, sorted."""
        return [name for name in self.names if name.endswith(".parquet")]


def is_image_name(name: str) -> bool:
    """Whether a file is of a kind that is read as an image here."""
    return _is_read(suffix_of(name))


def suffix_of(name: str) -> str:
    """The end of a file name from its last point on, in small letters; "" where there is none.

    >>> suffix_of("a.b/c.JPG"), suffix_of("a.b/c")
    ('.jpg', '')
    """
    stem, point, suffix = name[name.rfind("/") + 1 :].rpartition(".")
    return point + suffix.lower() if stem else ""


def without_suffix(name: str) -> str:
    """A file name up to `suffix_of` it.

    >>> without_suffix("a.b/c.JPG")
    'a.b/c'
    """
    return name[: len(name) - len(suffix_of(name))]


@cache
def _is_read(suffix: str) -> bool:
    return suffix in SUFFIXES and can_read(SUFFIXES[suffix])


def list_folder(folder: Path) -> Listing:
    """List a folder and all below it; links are followed, as `datasets` does.

    Raises:
        DatasetError: a folder cannot be read.
    """
    walk = _Walk(folder)
    walk.visit("", frozenset())
    lists = (walk.names, walk.irregular, walk.own, walk.cycles)
    return Listing(folder, *(sorted(names) for names in lists))


def file_size(file: Path | str) -> int:
    """How many bytes a regular file has; 0 where there is none."""
    try:
        status = os.stat(file)  # noqa: PTH116 - of a str as well
    except PermissionError:
        raise
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def warn_of_skipped_folders(listing: Listing) -> None:
    """Say which folders below were not looked into."""
    if listing.own:
        text = (
            f"{listing.folder}: {len(listing.own)} folder(s) that headwater wrote are left out, "
            f"such as {listing.own[0]!r}"
        )
        warnings.warn(text, HeadwaterWarning, stacklevel=2)
    if listing.cycles:
        text = (
            f"{listing.folder}: {len(listing.cycles)} link(s) to a folder that they lie in are "
            f"not followed, such as {listing.cycles[0]!r}"
        )
        warnings.warn(text, HeadwaterWarning, stacklevel=2)


@dataclass
class _Walk:
    folder: Path
    names: list[str] = field(default_factory=list)
    irregular: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    cycles: list[str] = field(default_factory=list)

    def visit(self, at: str, above: frozenset[tuple[int, int]]) -> None:
        """List the folder `at`; `above` are the identities of the folders that it lies in."""
        try:
            with os.scandir(self.folder / at) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".")]
            status = (self.folder / at).stat()
        except OSError as error:
            text = f"cannot read the folder {error.filename}: {error.strerror}; make it readable"
            raise DatasetError(text) from error
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            self.cycles.append(at)
            return
        names = {entry.name for entry in entries}
        if _is_answer(names) or (at and _is_index(self.folder / at, names)):
            self.own.append(at or ".")
            if at:
                return
            entries = [entry for entry in entries if entry.name not in _OF_ANSWERS]
        for entry in entries:
            name = f"{at}/{entry.name}" if at else entry.name
            if _is_folder(entry):
                self.visit(name, above | {identity})
            else:
                (self.names if _is_regular(entry) else self.irregular).append(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_answer(names: set[str]) -> bool:
    """Whether a folder holds an answer of headwater, or one of its parts."""
    whole = "query.png" in names and names & {"query.safetensors", "journey.json", "report.html"}
    return bool(whole or ("result.json" in names and names & {"scores.parquet", "top.png"}))


def _is_index(folder: Path, names: set[str]) -> bool:
    if "index.json" not in names:
        return False
    try:
        manifest = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == INDEX_FORMAT
