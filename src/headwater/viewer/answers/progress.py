"""Long work in a thread of its own: how far it is, and its end if nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from headwater.runtime.progress import Reached, Stopped, listening
from headwater.viewer.fragments import status

Result = TypeVar("Result")

EVERY = 1.0  # seconds


def watched(
    work: Callable[[], Result], quiet: bool = False
) -> Generator[dict[str, Any], None, Result]:
    """What work makes; what the status line is to show comes about every second until then.

    Whoever closes this before the work is done, as a page does with what is cancelled or left,
    ends the work where its next bar advances.

    Args:
        quiet: the line is of something else, and shows nothing of this.
    """
    reached: list[Reached] = []
    left, made = threading.Event(), Future[Result]()

    def listener(now: Reached) -> None:
        if left.is_set():
            raise Stopped
        if now.total != 0:  # of nothing there is nothing to say
            reached[:] = [now]

    def run() -> None:
        try:
            with listening(listener):
                made.set_result(work())
        except BaseException as error:  # is raised where the result is asked for
            made.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        shown = ""
        while wait([made], EVERY).not_done:
            said = "" if quiet or not reached else sentence(reached[0])
            yield {} if said == shown else {"status": status(said)}
            shown = said
        return made.result()
    finally:
        left.set()


def sentence(reached: Reached) -> str:
    """How far work is, for people.

    >>> sentence(Reached("gradients of star", 12, 32, "draw"))
    'Gradients of star: 12 of 32 draws.'
    """
    what = reached.what[:1].upper() + reached.what[1:]
    if not reached.done and reached.total is None:
        return f"{what}."
    of = "" if reached.total is None else f" of {reached.total:,}"
    return f"{what}: {reached.done:,}{of} {reached.unit}s."
