"""How far long work is: a bar in the terminal, and whoever listens in the same thread.

Who listens may end the work by raising `Stopped`: bars advance where nothing is half written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from tqdm import tqdm


class Stopped(Exception):
    """Nobody waits for the work any more. What was finished is kept."""


class Reached(NamedTuple):
    """How far work is.

    Attributes:
        what: is done, in words.
        total: None where it is not known.
        unit: of what is counted.
    """

    what: str
    done: int
    total: int | None
    unit: str


Listener = Callable[[Reached], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener how far work is that this thread does meanwhile.

    >>> told = []
    >>> with listening(told.append):
    ...     for _ in ProgressBar(range(2), desc="counting", unit="number"):
    ...         pass
    >>> [reached.done for reached in told], told[0].what, told[0].total
    ([0, 1, 2], 'counting', 2)
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class ProgressBar(tqdm):
    """A bar on anything over two seconds, gone when that is done; it tells whoever listens.

    Attributes:
        done: how many; a bar that is not shown counts them too.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        desc: str,
        total: int | None = None,
        unit: str = "it",
        bar_format: str | None = None,
    ) -> None:
        shown: dict[str, Any] = {"delay": 2, "leave": False, "bar_format": bar_format}
        super().__init__(iterable, desc=desc, total=total, unit=unit, **shown)
        self._what, self._counts, self.done = desc, unit, 0
        self._tell()

    def __iter__(self) -> Iterator[Any]:
        """What it is a bar of; each is done when the next is asked for."""
        for item in super().__iter__():
            yield item
            self.done += 1
            self._tell()

    def update(self, n: float | None = 1) -> bool | None:
        """So many more are done, or fewer, where work goes back."""
        shown = super().update(n)
        self.done += int(n or 0)
        self._tell()
        return shown

    def _tell(self) -> None:
        listener = _listener.get()
        if listener is not None:
            total = None if self.total is None else int(self.total)
            listener(Reached(self._what, self.done, total, self._counts))


@contextmanager
def one_call(what: str, seconds: bool = True) -> Iterator[None]:
    """Tell of work that is one call of a library, which nothing stops once it has begun.

    Args:
        seconds: whether it is known to take some, so that the terminal is told now.

    >>> told = []
    >>> with listening(told.append), one_call("factor", seconds=False):
    ...     pass
    >>> told[0].what
    'factor, which cannot be stopped'
    """
    with ProgressBar(desc=f"{what}, which cannot be stopped", bar_format="{desc}") as bar:
        if seconds:
            bar.refresh()
        yield
