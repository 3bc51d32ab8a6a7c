"""Large parquet files at a URL, read where they lie: footers, captions, one row group at a time.

A copy of them would fill a disk, and each worker of a cluster wants a few row groups alone. Small
ones are copied as everything else is (`storage.remote`), since answers show images again and again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from headwater.data.folders import splits
from headwater.data.folders.listing import is_image_name
from headwater.data.folders.members import COMPRESSED, PLAIN
from headwater.data.request import Request
from headwater.data.tables.parquet import Each, Range, TableFile, open_tables
from headwater.data.training_set import TrainingSet
from headwater.errors import StoreError
from headwater.storage.remote import (
    HUB,
    There,
    file_system,
    listed,
    there_of,
    told,
    was_copied,
)

# Bytes of all files together; more of them are not copied.
COPIED_UP_TO = 10 * 1000**3
_AT_ONCE = 32  # files that are opened side by side: each takes a few answers of a far place
_OF_THREADS = {"memory", "file", "local"}  # besides file systems that are made for it
# What makes a folder another one than of tables: of `datasets`, an index or an answer of headwater.
_OTHERS = {"dataset_dict.json", "state.json", "index.json", "result.json"}


def open_large_tables(request: Request) -> TrainingSet | None:
    """The parquet files of one split at a URL, or None where they are to be copied.

    That is of less than `COPIED_UP_TO`, of a folder with other data, of the Hugging Face hub, and
    where nothing is reached but an older copy is there.

    Raises:
        DatasetError: there is no such split or column, or a file is damaged.
        StoreError: a file cannot be reached, or has changed while it was opened.
    """
    url = str(request.source)
    if url.startswith(HUB):
        return None
    with told(url):
        try:
            files, root = file_system(url)
            there = listed(files, root)
            single = files.isfile(root)
        except (FileNotFoundError, ImportError, ValueError):
            return None  # who copies says it
        except Exception:  # each file system has its own
            if was_copied(url):
                return None
            raise
    tables = _large_tables(there)
    if not tables:
        return None
    if single:
        chosen = splits.choose(url, tables, {}, request.split)
    else:
        chosen = splits.choose_tables(url, tables, request.split)
    top = "" if single else f"{PurePosixPath(root).name}/".lstrip("/")

    def table_file(name: str) -> TableFile:
        return _table_file(files, root if single else f"{root}/{name}", url, f"{top}{name}")

    with _side_by_side(files) as each:
        opened = [*each(table_file, chosen)]
        data = open_tables(opened, request, each)
        for _ in each(lambda file: file.require_unchanged(), opened):
            pass  # an error of one is raised here
    return data


@contextmanager
def _side_by_side(files: Any) -> Iterator[Each]:
    """`map` in threads, as many as the file system can do with, in order; iterators become lists.

    Those with one connection (ftp) are for one thread alone.
    """
    names = files.protocol if isinstance(files.protocol, tuple) else (files.protocol,)
    many = files.async_impl or not _OF_THREADS.isdisjoint(names)
    with ThreadPoolExecutor(_AT_ONCE if many else 1) as pool:

        def each(work: Callable[..., Any], *columns: Sequence[Any]) -> Iterator[Any]:
            def done(*given: Any) -> Any:
                found = work(*given)
                return list(found) if isinstance(found, Iterator) else found

            for start in range(0, len(columns[0]), _AT_ONCE):  # no more than these are in memory
                yield from pool.map(done, *(c[start : start + _AT_ONCE] for c in columns))

        yield each


def _large_tables(there: Mapping[str, There]) -> list[str]:
    """Names of parquet files that are too many bytes to copy, and all that is there."""
    names = [name for name in sorted(there) if not any(p.startswith(".") for p in name.split("/"))]
    for name in names:
        archive = name.lower().endswith((*PLAIN, *COMPRESSED))
        if archive or is_image_name(name) or PurePosixPath(name).name in _OTHERS:
            return []
    tables = [name for name in names if name.endswith(".parquet")]
    return tables if sum(there[name].size for name in tables) > COPIED_UP_TO else []


def _table_file(files: Any, place: str, url: str, name: str) -> TableFile:
    def now() -> There:
        with told(url):
            return there_of(files, place)

    def require_unchanged() -> None:
        if now() != before:
            raise StoreError(f"{place} at {url} has changed since it was opened: begin again")

    before = now()
    source, pieces = _Far(files, place, before.size, url), partial(_read, files, place, url)
    return TableFile(name, f"{place} at {url}", source, pieces, require_unchanged)


def _read(files: Any, place: str, url: str, ranges: Sequence[Range]) -> list[bytes]:
    """The bytes of some ranges, asked for side by side where the file system can.

    Raises:
        StoreError: it cannot be reached, or gives another number of bytes.
    """
    starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
    with told(url):
        found = files.cat_ranges([place] * len(ranges), starts, stops, on_error="raise")
        for content, (start, stop) in zip(found, ranges, strict=True):
            if isinstance(content, Exception):  # some versions give what they should raise
                raise content
            if len(content) != stop - start:
                raise StoreError(
                    f"{place} at {url} gave {len(content)} of {stop - start} bytes: begin again"
                )
    return [bytes(content) for content in found]


class _Far(io.RawIOBase):
    """A file at a URL as Arrow reads files: each read is a request for these bytes and no more."""

    def __init__(self, files: Any, place: str, size: int, url: str) -> None:
        self._read_range = partial(_read, files, place, url)
        self._at, self._size = 0, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        (content,) = self._read_range([(self._at, stop)])
        self._at = stop
        return content
