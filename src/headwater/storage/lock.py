"""One writer at a time: an index is locked while it is built, mended or made smaller.

The lock is the operating system's (`flock`), which goes with the process that holds it, however
that ends; where a file system has none, a file that names its owner, which others take over when
the owner is gone (`filelock`). A `.json` beside it says who holds it, for people.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from headwater.errors import StoreError
from headwater.storage.files import changing, read_json

# What a lock leaves in a folder while it is held.
LOCK_FILES = ("headwater-lock", "headwater-lock.json")
POLL = 0.5  # seconds between two looks at a lock that others hold


@contextmanager
def locked(folder: Path, when_held: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is not there, and goes if it stays empty.

    A folder that cannot be written to, as on a read-only disk, is not locked.

    Args:
        when_held: called once, with who holds it, where somebody does; it may raise what refuses
            to wait.

    Raises:
        ResourceError, StoreError: the folder cannot be made.
    """
    existed = folder.exists()
    with changing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = _acquired(folder, when_held)
    try:
        yield
    finally:
        if lock is not None:
            for name in reversed(LOCK_FILES):
                with suppress(OSError):  # while it is held: who waits then looks for another
                    (folder / name).unlink()
            lock.release()
        if not existed:
            with suppress(OSError):
                folder.rmdir()


def _acquired(folder: Path, when_held: Callable[[str], None]) -> BaseFileLock | None:
    lock = FileLock(folder / LOCK_FILES[0])
    try:
        lock.acquire(timeout=0)
    except Timeout:
        when_held(_owner(folder))
        lock.acquire(poll_interval=POLL)
    except OSError:  # what has to be written fails there, and says why
        return None
    said = {"host": socket.gethostname(), "pid": os.getpid()}
    with suppress(OSError):
        (folder / LOCK_FILES[1]).write_text(json.dumps(said), encoding="utf-8")
    return lock


def _owner(folder: Path) -> str:
    """Who holds a lock, as far as it is written down."""
    try:
        said = read_json(folder / LOCK_FILES[1])
        return f"process {int(said['pid'])} on {str(said['host'])[:60]}"
    except (OSError, ValueError, KeyError, TypeError, StoreError):
        return "another process"
