"""Room on this machine for rows of indexes at URLs: copies that are needed last go first.

Copies lie below one folder, the root, those of an index in `NAME` beside `NAME.rows.json`. Nothing
but files of rows ever goes. One that is read, or about to be, is pinned: by a file below
`ROOT/reading` that its process holds locked, and that counts no more when the process has ended,
however that was. Pins are made, and files removed, by one process at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from filelock import BaseFileLock, FileLock, Timeout

from headwater.errors import ParameterError

LIMIT = "HEADWATER_CACHE_BYTES"
# Files of rows: of this program, or of another, beside index.json.
FILE_OF_ROWS = re.compile(r"features/\d{5,}\.safetensors|[^/\\]+\.npy")
# Folders of an index that hold what was computed for questions, and can be computed again.
CACHES = ("kernels", "queries", "similarity")
RECORD = ".rows.json"  # how the file ends that lies beside the copy of an index
# Bytes of the disk that are left to kernels, answers and others, as long as a copy can go.
MARGIN = 2**30
_BEGUN, _READING = ".part", "reading"
_PIN = re.compile(r"(\d+)\.[0-9a-f]{32}")  # how many bytes the file has, and a name of its own


class _Copy(NamedTuple):
    path: str
    size: int
    read: int  # when it was last read, in nanoseconds

    @property
    def is_begun(self) -> bool:
        return self.path.endswith(_BEGUN)

    @property
    def whole(self) -> str:
        """Where it lies once it is whole."""
        return self.path.removesuffix(_BEGUN)


class Pin(NamedTuple):
    """A file that must not go, there or not yet.

    Attributes:
        file: the one.
        lock: is held as long as it is read.
    """

    file: Path
    lock: BaseFileLock


class Rows(NamedTuple):
    """Files of rows of an index at a URL, which are copied when they are read.

    Attributes:
        url: of the index.
        sizes: in bytes, by their names in it; none where a worker has opened it.
        are_gone: there was an index, and there is none now. Who has it open is still to be told of
            the URL, and whatever else is there now is not rows.
    """

    url: str
    sizes: Mapping[str, int]
    are_gone: bool = False


def rows_at(copy: Path) -> Rows | None:
    """What is copied when it is read; None of a folder that is no copy of an index."""
    try:
        said = json.loads(_record_of(copy).read_text())
        sizes = {str(name): int(size) for name, size in said["sizes"].items()}
        return Rows(str(said["url"]), sizes, bool(said.get("are_gone")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def leave(copy: Path, rows: Rows) -> None:
    """Write down what is to be copied when it is read; copies of what is there no more go."""
    before = rows_at(copy)
    _write(copy, rows)
    if before is not None:
        _remove(copy, before.sizes.keys() - rows.sizes.keys())
    make_room(copy.parent)  # the limit may have become less


def forget(copy: Path) -> None:
    """There are no rows at the URL of a copy, or no more."""
    before = rows_at(copy)
    if before is not None and not before.are_gone:
        _remove(copy, before.sizes.keys())
        _write(copy, Rows(before.url, {}, are_gone=True))


def pin(root: Path, file: Path, size: int) -> Pin:
    """Keep a file of rows from going, and room for it where it is not there yet.

    Args:
        root: that copies lie below.
        size: of the file, in bytes.
    """
    folder = root / _READING / file.relative_to(root)
    with _alone(root):
        folder.mkdir(parents=True, exist_ok=True)
        # another thread may release it than has acquired it
        lock = FileLock(folder / f"{size}.{uuid4().hex}", thread_local=False)
        lock.acquire(timeout=0)
    return Pin(file, lock)


def unpin(pinned: Pin) -> None:
    """Let it go when its turn comes; it was read until now."""
    with suppress(OSError):  # gone, or not ours
        now, changed = time.time_ns(), pinned.file.stat().st_mtime_ns
        os.utime(pinned.file, ns=(now, changed))
    place = Path(pinned.lock.lock_file)
    place.unlink(missing_ok=True)  # while it is held: who tries it then finds nothing
    pinned.lock.release()


@contextmanager
def copying(root: Path, file: Path) -> Iterator[None]:
    """Be the only one who copies a file; others wait, and find it there.

    There are 256 locks, so that now and then somebody waits for another file.
    """
    locks = root / "copying"
    locks.mkdir(parents=True, exist_ok=True)
    place = file.relative_to(root).as_posix()  # names of shards are those of any other index
    with FileLock(locks / hashlib.sha256(place.encode()).hexdigest()[:2]):
        yield


def make_room(
    root: Path, more: int = 0, passed: Collection[str] = (), reader: Path | None = None
) -> int:
    """Remove copies until all that are pinned fit, those first that are needed last.

    Those are what was longest unread, and, of the files that a pass goes through again and again,
    what was read last: else, were there room for all but one, each would go right before its turn.

    Args:
        more: bytes that go besides, where a disk was full that said it was not.
        passed: files of the pass that room is made for, by their paths.
        reader: the file that room is made for, where it is wanted now: what others are still to
            copy does not count then. None: all that are pinned count.

    Returns:
        How many bytes the disk lacks for those that count, or -1 where they fit there but not
        below the limit, or in the margin; 0 where all is well.

    Raises:
        ParameterError: the limit is no number.
    """
    limit = _limit()
    with _alone(root):
        pinned, free = _pinned(root), shutil.disk_usage(root).free
        if limit == float("inf") and free - sum(pinned.values()) >= MARGIN and not more:
            return 0  # without a look at tens of thousands of files
        there = list(_copies(root))
        # of each file that is pinned, what of it is there, whole or not
        begun = {copy.whole: copy.size for copy in there if copy.whole in pinned}
        lacking = {path: max(0, size - begun.get(path, 0)) for path, size in pinned.items()}
        coming = sum(lacking.values())
        over = max(sum(copy.size for copy in there) + coming - limit, MARGIN + coming - free, more)
        for copy in sorted(there, key=lambda copy: _turn(copy, passed)):
            if over <= 0:
                break
            if copy.whole not in pinned and _removed(copy.path):
                over -= copy.size
                free += copy.size
    needed = coming if reader is None else lacking.get(str(reader), 0)
    return max(0, needed - free) or (-1 if over > 0 else 0)


def _turn(copy: _Copy, passed: Collection[str]) -> tuple[bool, bool, int]:
    """Sorts copies: what was left of one that was interrupted goes before any whole one."""
    is_passed = copy.path in passed
    return not copy.is_begun, is_passed, -copy.read if is_passed else copy.read


def _write(copy: Path, rows: Rows) -> None:
    record = _record_of(copy)
    part = record.with_name(f"{record.name}.part")
    part.write_text(json.dumps(rows._asdict()))
    part.replace(record)


def _remove(copy: Path, names: Iterable[str]) -> None:
    """Remove files of rows that nobody reads; others go when their turn comes."""
    root = copy.parent
    with _alone(root):
        pinned = _pinned(root)
        for path in (str(copy / name) for name in names):
            if path not in pinned:
                _removed(path)


def _record_of(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}{RECORD}") if copy.name else copy / RECORD


def _limit() -> float:
    given = os.environ.get(LIMIT)
    if not given:
        return float("inf")
    try:
        limit = float(given)
    except ValueError:
        limit = -1
    if not limit >= 0:
        raise ParameterError(f"{LIMIT}={given!r} is no number of bytes: give one, such as 2e11")
    return limit


def _copies(root: Path) -> Iterator[_Copy]:
    """The files of rows, and what was begun of them."""
    for record in root.glob(f"*{RECORD}"):
        copy = record.with_name(record.name.removesuffix(RECORD))
        rows = rows_at(copy)
        if rows is not None and rows.are_gone:
            continue
        for index in (copy, *copy.glob("checkpoints/*")):
            yield from _ending(index / "features", (".safetensors", f".safetensors{_BEGUN}"))
            yield from _ending(index, (".npy", f".npy{_BEGUN}"))


def _ending(folder: Path, ends: tuple[str, ...]) -> Iterator[_Copy]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(ends):
                with suppress(FileNotFoundError):  # it has got its name meanwhile
                    facts = entry.stat()
                    yield _Copy(entry.path, facts.st_size, facts.st_atime_ns)


def _pinned(root: Path) -> dict[str, int]:
    """Files that somebody reads, and their sizes; what the dead have left goes."""
    found, reading = {}, str(root / _READING)
    for folder, folders, names in os.walk(reading, topdown=False):
        for name in names:
            pinned = _PIN.fullmatch(name)  # others are of file systems and of file managers
            if pinned and _is_held(Path(folder) / name):
                found[f"{root}{folder.removeprefix(reading)}"] = int(pinned[1])
        if not folders:
            with suppress(OSError):  # somebody reads it
                Path(folder).rmdir()
    return found


def _is_held(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
    except Timeout:
        return True
    return False


def _removed(path: str) -> bool:
    """Whether it could be; where an open file cannot, somebody has it open."""
    try:
        Path(path).unlink()
    except OSError:
        return False
    return True


def _alone(root: Path) -> FileLock:
    return FileLock(root / f"{_READING}.lock")
