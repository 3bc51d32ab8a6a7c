"""What every worker does, wherever it runs: settle, load once, item after item."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod
from typing import Generic, TypeVar

import torch
from tqdm import tqdm

from headwater.runtime.console import quiet_libraries, warn_plainly

Item = TypeVar("Item")
Result = TypeVar("Result")
Start = Callable[[], Callable[[Item], Result]]
DIED = (
    "a worker died without a word: most often memory ran out, then give fewer --jobs (a script of "
    'your own also needs `if __name__ == "__main__":`); finished work is kept'
)


class Worker(Generic[Item, Result]):
    """Does items one after the other; what they need is loaded when the first one comes."""

    def __init__(self, start: Start[Item, Result]) -> None:
        self._start = start
        self._work: Callable[[Item], Result] | None = None

    def __call__(self, item: Item) -> Result:
        if self._work is None:
            self._work = self._start()
        return self._work(item)


def settle() -> None:
    """Make a process a worker: one thread, and no bars and remarks across those of the others."""
    torch.set_num_threads(1)
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    quiet_libraries()
    warn_plainly()
