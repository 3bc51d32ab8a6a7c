"""Where the files of shards lie: those of an index at a URL are copied when they are read.

One is copied ahead of the one that is read, by a thread. A copy is what `index.json` says, by size
and checksum, or it is refused; it stays as long as there is room (`storage.room`).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from headwater.errors import ResourceError, StoreError
from headwater.storage import room
from headwater.storage.manifest import Manifest, Shard, shard_from_json
from headwater.storage.remote import copy_for_rows, file_system, told
from headwater.storage.room import rows_at
from headwater.storage.shards import is_same

Identity = tuple[int, int, int]  # of a file: size, time of the last change, place on the disk
Verified = dict[str, Identity]  # shards that were read through, by their files


class DamagedThereError(StoreError):
    """A shard is not at the URL of its index as that lists it; those after it may well be."""


class Place(NamedTuple):
    """An index at a URL, or one of its further checkpoints: what a worker elsewhere opens.

    Attributes:
        url: of the whole.
        below: where it lies in that: "", or "checkpoints/0/".
    """

    url: str
    below: str = ""


def shard_files(
    folder: Path, shards: Sequence[Shard], verified: Verified | None = None
) -> Iterator[Path]:
    """The file of each shard, one after the other; of an index here none is looked at.

    Of the copy of an index at a URL each is there, whole, until the next one is asked for.

    Args:
        verified: as for `storage.blocks.read_blocks`.

    Raises:
        StoreError: of an index at a URL: it cannot be reached, or has changed.
        DamagedThereError: likewise: a shard is missing or damaged there.
        ResourceError: likewise: there is no room, although nothing else is left that could go.
        ParameterError: likewise: the limit of its copies is no number.

    Example:
        for shard, file in zip(manifest.shards, shard_files(folder, manifest.shards)):
            ...
    """
    place = place_of(folder)
    if isinstance(place, Path):
        yield from (folder / shard.file for shard in shards)
        return
    if not shards:
        return
    source = _Source(folder, place, shards)
    hold = partial(_held, source, {} if verified is None else verified)
    with ThreadPoolExecutor(1, "headwater-shards") as thread:
        ahead = None
        try:
            for shard, after in zip(shards, [*shards[1:], None], strict=True):
                pinned = ahead.result() if ahead is not None else None
                ahead = None
                pinned = pinned or hold(shard)
                assert pinned is not None, "only ahead of time is there none"
                try:
                    ahead = None if after is None else thread.submit(hold, after, True)
                    yield pinned.file
                finally:
                    room.unpin(pinned)
        finally:
            left = ahead.result() if ahead is not None and ahead.exception() is None else None
            if left is not None:
                room.unpin(left)


def is_right(path: Path, shard: Shard, verified: Verified) -> bool:
    """Whether a file is that of a shard, by size and checksum.

    Args:
        verified: of whom was found right before, and is taken for that as long as its file is the
            same; it is added where it is found right now.
    """
    identity = identity_of(path)
    if verified.get(shard.file) != identity:
        if not is_same(path, shard):
            return False
        verified[shard.file] = identity
    return True


def identity_of(path: Path) -> Identity:
    """What is another where a file was changed or replaced."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def place_of(folder: Path) -> Path | Place:
    """Where other machines find an index: at its URL, where the folder is a copy of that."""
    rows = rows_at(folder)
    if rows is not None:
        return Place(rows.url)
    rows = rows_at(_top(folder))
    return folder if rows is None else Place(rows.url, f"checkpoints/{folder.name}/")


def folder_of(place: Path | Place) -> Path:
    """The folder of this machine that `shard_files` takes for a place."""
    return place if isinstance(place, Path) else copy_for_rows(place.url) / place.below


def shards_there(folder: Path, manifest: Manifest) -> list[Shard] | None:
    """Shards that lie at the URL that a folder is a copy of, by their sizes; None where it is none.

    None of them is read.
    """
    place = place_of(folder)
    if isinstance(place, Path):
        return None
    rows = rows_at(_top(folder) if place.below else folder)
    sizes = {} if rows is None else rows.sizes
    return [
        shard for shard in manifest.shards if sizes.get(f"{place.below}{shard.file}") == shard.bytes
    ]


def _top(checkpoint: Path) -> Path:
    """The folder of an index that the one of a further checkpoint is in."""
    return checkpoint.parent.parent


class _Source:
    """A place that shards are copied from, connected to once one is."""

    def __init__(self, folder: Path, place: Place, shards: Sequence[Shard]) -> None:
        self.folder, self.url, self.below = folder, place.url, place.below
        self.root = (_top(folder) if place.below else folder).parent
        self.passed = {str(folder / shard.file) for shard in shards}

    @cached_property
    def _there(self) -> tuple[Any, str]:
        return file_system(self.url)

    def get(self, name: str, to: Path) -> None:
        files, root = self._there
        files.get_file(f"{root}/{self.below}{name}", str(to))

    def read(self, name: str) -> bytes:
        files, root = self._there
        return files.cat_file(f"{root}/{self.below}{name}")


def _held(
    source: _Source, verified: Verified, shard: Shard, ahead: bool = False
) -> room.Pin | None:
    """A shard's file, which is there and stays; None ahead of time where it has no room."""
    path = source.folder / shard.file
    pinned = room.pin(source.root, path, shard.bytes)
    try:
        with room.copying(source.root, path):
            if path.is_file() and is_right(path, shard, verified):
                return pinned
            if _has_room(source, shard, ahead):
                _copy(source, shard, path)
                verified[shard.file] = identity_of(path)
                return pinned
    except BaseException:
        room.unpin(pinned)
        raise
    room.unpin(pinned)
    return None


def _has_room(source: _Source, shard: Shard, ahead: bool) -> bool:
    """Whether there is, or was made; who reads it now does without the margin and the limit."""
    reader = None if ahead else source.folder / shard.file
    lacking = room.make_room(source.root, 0, source.passed, reader)
    if lacking > 0 and not ahead:
        raise ResourceError(
            f"no space left to copy {shard.file} ({shard.bytes / 1e6:,.0f} MB) of {source.url} to "
            f"{source.root}: free some, or name another folder as HEADWATER_CACHE"
        )
    return lacking == 0 or not ahead


def _copy(source: _Source, shard: Shard, path: Path) -> None:
    """Copy a shard; it has its name once it is known to be the right one."""
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with told(source.url):
            try:
                _get(source, shard, part)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                part.unlink(missing_ok=True)
                room.make_room(source.root, shard.bytes, source.passed)
                _get(source, shard, part)
            if not is_same(part, shard):
                raise _what_is_wrong(source, shard)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _get(source: _Source, shard: Shard, part: Path) -> None:
    try:
        source.get(shard.file, part)
    except FileNotFoundError:
        raise _what_is_wrong(source, shard) from None


def _what_is_wrong(source: _Source, shard: Shard) -> StoreError:
    """Of a shard that is not there as it was listed: what its index says of it now."""
    try:
        listed = json.loads(source.read("index.json"))["shards"]
        same = shard in map(shard_from_json, listed)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        same = False  # it is being replaced
    if same:
        return DamagedThereError(
            f"{source.below}{shard.file} at {source.url} is missing or damaged there: remove it "
            "there and push the index again"
        )
    return StoreError(
        f"the index at {source.url} has changed there since it was opened, "
        f"{source.below}{shard.file} is not what it was: ask again"
    )
