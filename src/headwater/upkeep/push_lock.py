"""One push at a time to a place: a file there, made only where there is none, says who is at it.

Object stores and file systems look and make it in one step, so that of two that begin at once one
is refused. It goes when the push has ended. One that was stopped half-way leaves it, and the next
goes on: at once, if the one before could say that it stopped or its process is gone from this
machine, else after a day.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from headwater.errors import StoreError
from headwater.storage.files import DAY, is_full
from headwater.storage.remote import PUSHING

_NOBODY = 0  # no number of a process


class Turn(NamedTuple):
    """A push that is alone at a place.

    Attributes:
        was_begun: an earlier one changed what is there, and did not end.
        begin: is called before this one does.
    """

    was_begun: bool
    begin: Callable[[], None]


class _Push(NamedTuple):
    """What the file says of a push. `since`: in seconds since 1970; `begun`: something changed."""

    host: str
    pid: int
    since: float
    begun: bool

    def said(self) -> bytes:
        return json.dumps(self._asdict()).encode()


@contextmanager
def alone_at(files: Any, root: str, url: str) -> Iterator[Turn]:
    """Be the only one who pushes to a place, a folder that is there.

    Args:
        files: the file system (fsspec) that the place is in.
        root: its path there.
        url: how people call it.

    Raises:
        StoreError: another process is at it.

    Example:
        with alone_at(files, "bucket/index", "s3://bucket/index") as turn:
            turn.begin()
            files.put_file("index.json", "bucket/index/index.json")
    """
    place = f"{root}/{PUSHING}"
    own = _Push(socket.gethostname(), os.getpid(), time.time(), begun=False)
    own = own._replace(begun=_taken(files, place, url, own))
    turn = Turn(own.begun, lambda: _begin(files, place, own))
    try:
        yield turn
    except BaseException:
        with suppress(Exception):  # each file system has its own
            now = _read(files, place)
            if now is not None and now.begun:
                files.pipe_file(place, now._replace(pid=_NOBODY).said())
            else:
                files.rm_file(place)
        raise
    with suppress(Exception):  # the push is done
        files.rm_file(place)


def _begin(files: Any, place: str, own: _Push) -> None:
    files.pipe_file(place, own._replace(begun=True).said())


def _taken(files: Any, place: str, url: str, own: _Push) -> bool:
    """Whether the push that the place is taken over from had begun."""
    if _made(files, place, own.said()):
        return False
    there = _read(files, place)
    if there is not None and _is_stale(there):
        with suppress(FileNotFoundError):
            if _read(files, place) == there:  # nobody else has taken it over
                files.rm_file(place)
        if _made(files, place, own._replace(begun=there.begun).said()):
            return there.begun
        there = _read(files, place)
    owner = "another process" if there is None else f"process {there.pid} on {there.host[:60]}"
    raise StoreError(
        f"{url} is being written by {owner}: wait until it is done, or, if it has died, remove "
        f"{PUSHING} there"
    )


def _made(files: Any, place: str, said: bytes) -> bool:
    """Whether the file could be made, where there was none."""
    try:
        with files.open(place, "xb") as file:
            file.write(said)
    except (NotImplementedError, ValueError):  # of a file system that cannot do it in one step
        if files.exists(place):
            return False
        files.pipe_file(place, said)
    except OSError as error:
        if is_full(error):
            with suppress(OSError):
                files.rm_file(place)
            raise
        if not files.exists(place):
            raise
        return False
    return True


def _read(files: Any, place: str) -> _Push | None:
    """What the file says, whoever wrote it; None of anything else, or where it has just gone."""
    try:
        said = json.loads(files.cat_file(place))
        host, begun = str(said["host"]), bool(said["begun"])
        return _Push(host, int(said["pid"]), float(said["since"]), begun)
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _is_stale(push: _Push) -> bool:
    """Whether nobody is at it any more."""
    here = push.host == socket.gethostname()
    return push.pid == _NOBODY or time.time() - push.since > DAY or (here and _is_gone(push.pid))


def _is_gone(pid: int) -> bool:
    """Whether there is no such process on this machine, where that can be told."""
    if os.name != "posix" or pid < 0:  # elsewhere a signal of 0 is no question
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
