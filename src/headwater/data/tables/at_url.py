"""Large parquet files at a URL, read where they lie: footers, captions, one row group at a time.

A copy of them would fill a disk, and each worker of a cluster wants a few row groups alone. Small
ones are copied as everything else is (`storage.remote`), since answers show images again and again.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from headwater.data.folders import splits
from headwater.data.folders.listing import is_image_name
from headwater.data.request import Request
from headwater.data.tables.parquet import Range, TableFile, open_tables
from headwater.data.training_set import TrainingSet
from headwater.storage.remote import HUB, There, file_system, listed, told

# Bytes of all files together; more of them are not copied.
COPIED_UP_TO = 10 * 1000**3
# What makes a folder more than a folder of tables: archives, and what headwater itself wrote.
_OTHERS = (".tar", ".zip", "index.json", "result.json")


def open_large_tables(request: Request) -> TrainingSet | None:
    """The parquet files of one split at a URL, or None where they are to be copied.

    That is of less than `COPIED_UP_TO`, of a folder with other data, of the Hugging Face hub, and
    where nothing is reached.

    Raises:
        DatasetError: there is no such split or column, or a file is damaged.
        StoreError: a file cannot be reached.
    """
    url = str(request.source)
    if url.startswith(HUB):
        return None
    try:
        files, root = file_system(url)
        there = listed(files, root)
    except Exception:  # each file system has its own; who copies says it, or has an older copy
        return None
    names = [name for name in sorted(there) if not any(p.startswith(".") for p in name.split("/"))]
    tables = [name for name in names if name.endswith(".parquet")]
    if any(is_image_name(name) or name.endswith(_OTHERS) for name in names) or not tables:
        return None
    if sum(there[name].size for name in tables) <= COPIED_UP_TO:
        return None
    chosen = splits.choose_tables(url, tables, request.split)
    single = root.endswith(f"/{chosen[0]}") and len(there) == 1
    places = {name: root if single else f"{root}/{name}" for name in chosen}
    top = "" if single else f"{PurePosixPath(root).name}/"
    opened = [
        TableFile(
            top + name,
            partial(_Far, files, place, there[name], url),
            partial(_pieces, files, place, url),
        )
        for name, place in places.items()
    ]
    return open_tables(url, opened, request)


def _pieces(files: Any, place: str, url: str, ranges: Sequence[Range]) -> Sequence[bytes]:
    starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
    with told(url):
        return files.cat_ranges([place] * len(ranges), starts, stops, on_error="raise")


class _Far(io.RawIOBase):
    """A file at a URL as Arrow reads files: each read is a request for these bytes and no more."""

    def __init__(self, files: Any, place: str, facts: There, url: str) -> None:
        self._files, self._place, self._size, self._url = files, place, facts.size, url
        self._at = 0

    def __str__(self) -> str:
        return f"{self._place.rpartition('/')[2]} at {self._url}"

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
        with told(self._url):
            content = self._files.cat_file(self._place, start=self._at, end=stop)
        self._at += len(content)
        return content
