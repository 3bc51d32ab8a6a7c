"""Several builders of one index: who is there, and which of them does what.

A piece of work (a shard, a part of a curvature) is done by whoever holds its lock, and is looked
for on disk once that is held. Locks go with their processes: what is left undone by a builder that
was killed is done by another.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout

from headwater.errors import StoreError
from headwater.storage.lock import POLL, locked

FOLDER = "claims"
_BUILDER = re.compile(r"(process \d+ on .+), \d+")
_numbers = count()


@contextmanager
def building(folder: Path) -> Iterator[None]:
    """Say for so long that this process builds the index in a folder.

    Begun by who holds the lock of the folder, so that nobody removes meanwhile what is built.
    """
    owner = f"process {os.getpid()} on {socket.gethostname()[:60]}, {next(_numbers)}"
    try:
        with claimed(folder, owner, wait=True):
            yield
    finally:
        with suppress(OSError):  # it is empty when the last one goes
            (folder / FOLDER).rmdir()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of an index's folder, in which nobody builds.

    Raises:
        StoreError: somebody does, or holds the lock.
    """

    def refuse(owner: str) -> NoReturn:
        raise StoreError(f"{folder} is being written by {owner}: wait until it is done")

    with locked(folder, refuse):
        others = builders(folder)
        if others:
            refuse(others[0])
        yield


def builders(folder: Path) -> list[str]:
    """Who builds an index or its checkpoints, in words; what dead builders left is removed."""
    held = drop_dead_claims(folder)
    for checkpoint in folder.glob("checkpoints/*"):
        held += drop_dead_claims(checkpoint)
    owners = [_BUILDER.fullmatch(path.stem) for path in held]
    named = {owner[1] for owner in owners if owner is not None}
    return sorted(named) or ["a worker"] * bool(held)


def drop_dead_claims(folder: Path) -> list[Path]:
    """Remove the claims that builders left who were killed; the others are returned."""
    return [path for path in folder.glob(f"{FOLDER}/*") if not _dropped(path)]


def _dropped(path: Path) -> bool:
    """Whether nobody holds a claim, which is then removed."""
    lock = FileLock(path)
    try:
        with lock.acquire(timeout=0):
            path.unlink()
    except Timeout:
        return False
    except OSError:
        return True  # somebody else has removed it
    with suppress(OSError):
        path.parent.rmdir()
    return True


@contextmanager
def claimed(folder: Path, piece: str, wait: bool) -> Iterator[bool]:
    """Hold a piece of the work on the index in a folder; whether it is held is given.

    Where a folder cannot be written to, or its disk has no locks, everything is.

    Args:
        wait: until whoever holds it is done, or has died.
    """
    path = folder / FOLDER / f"{piece}.lock"
    lock = FileLock(path)
    held = _acquired(lock, path, wait)
    try:
        yield held
    finally:
        if lock.is_locked:
            try:
                with suppress(OSError):  # while it is held: who waits then looks for another
                    path.unlink()
            finally:
                lock.release()


def _acquired(lock: FileLock, path: Path, wait: bool) -> bool:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if wait else 0, poll_interval=POLL)
            return True
        except Timeout:
            return False
        except FileNotFoundError:  # the last of other builders has removed the folder
            continue
        except OSError:  # what has to be written fails there, and says why
            return True
