"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from headwater.errors import ResourceError
from headwater.runtime.worker import DIED, Item, Result, Start, Worker, settle

# Spawned: a fork of a process that has used OpenMP or CUDA may hang.
BEGIN = "spawn"

_of_this_process: Worker[Any, Any] | None = None


def _begin(start: Start[Any, Any]) -> None:
    global _of_this_process
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the process that was interrupted says so
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settle()
    _of_this_process = Worker(start)


def _end_with_parent() -> None:
    """A parent that was killed cannot tell; the same command would work beside its orphans."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(item: Any) -> Any:
    assert _of_this_process is not None, "the pool begins every process with `_begin`"
    return _of_this_process(item)


def in_processes(jobs: int, start: Start[Item, Result], items: Sequence[Item]) -> Iterator[Result]:
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context(BEGIN), _begin, (start,))
    left = iter(items)
    try:
        # No more than there are processes: what waits in the pool's own queue is not cancelled.
        running = {pool.submit(_do, item) for item in islice(left, jobs)}
        while running:
            done: set[Future[Result]]
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                yield each.result()
                running |= {pool.submit(_do, item) for item in islice(left, 1)}
    except BrokenProcessPool:
        raise ResourceError(DIED) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
