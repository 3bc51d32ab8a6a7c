"""Ctrl-C that comes while a module is imported waits until it is.

Libraries are imported for seconds, by code that swallows what it does not expect: an interrupt is
lost there, or comes out as an error that has nothing to do with it.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 0.1  # seconds until it is looked again


@contextmanager
def ctrl_c_after_imports() -> Iterator[None]:
    """Raise KeyboardInterrupt between imports; a second Ctrl-C does not wait."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # ignored, as under nohup, or somebody else's
        return
    waiting: list[threading.Timer] = []
    reminded = threading.Event()

    def remind() -> None:
        reminded.set()
        _thread.interrupt_main()

    def look(number: int, frame: FrameType | None) -> None:
        pressed_again = bool(waiting) and not reminded.is_set()
        reminded.clear()
        if pressed_again or not _importing(frame):
            signal.default_int_handler(number, frame)
        timer = threading.Timer(AGAIN, remind)
        timer.daemon = True
        waiting[:] = [timer]
        timer.start()

    signal.signal(signal.SIGINT, look)
    try:
        yield
    finally:
        for timer in waiting:
            timer.cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
