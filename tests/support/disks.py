"""Disks that are full or read-only, as what writes to them sees it; no disk is needed for it."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from headwater.storage import files, shards

READ_ONLY = r"Read-only file system: make it writable, or name another folder$"


def full(patch: pytest.MonkeyPatch, writes: int) -> list[int]:
    """A disk that has room for so many more files that are written whole; the list counts them."""
    calls, fsync = [], os.fsync

    def synced(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            calls.append(handle)
            if len(calls) > writes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    patch.setattr(files.os, "fsync", synced)
    return calls


def read_only(patch: pytest.MonkeyPatch, place: Path) -> None:
    """Refuse to change anything below a folder, as a disk does that is mounted read-only."""

    def refuse(path: Any) -> None:
        if Path(path).is_relative_to(place):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def refused(real: Callable[..., Any], which: int = 0) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            refuse(args[which])
            return real(*args, **options)

        return call

    for name in ("unlink", "rmdir", "replace", "touch", "write_text", "write_bytes"):
        patch.setattr(Path, name, refused(getattr(Path, name)))
    for module in (files, shards):
        patch.setattr(module, "save_file", refused(module.save_file, which=1))
    patch.setattr(files.pq, "ParquetWriter", refused(files.pq.ParquetWriter))
    mkdir, rmtree, opened = Path.mkdir, shutil.rmtree, os.open

    def made(path: Path, *args: Any, **options: Any) -> None:
        if not path.exists():  # else it is there, and that is said first
            refuse(path)
        mkdir(path, *args, **options)

    def removed(path: Any, ignore_errors: bool = False, **options: Any) -> None:
        with suppress(*[OSError] * ignore_errors):
            refuse(path)
            rmtree(path, ignore_errors, **options)

    def opened_to_read(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return opened(path, flags, *args, **options)

    patch.setattr(Path, "mkdir", made)
    patch.setattr(shutil, "rmtree", removed)
    patch.setattr(os, "open", opened_to_read)
