"""Pictures opened ahead of time, in the background, within bounds of number and of memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Lock, Thread

from PIL import Image

from headwater.data.training_set import TrainingSet

AHEAD = 64  # pictures; enough for the next batch
HELD_BYTES = 256 * 2**20  # of decoded pixels
_PIXEL = 4  # bytes, as Pillow holds RGB

Opened = Image.Image | BaseException


class Reader:
    """Pictures of rows that are asked for in order, opened by a thread before they are.

    Holds at most `AHEAD` pictures and `HELD_BYTES` of pixels, be they ahead or passed (a batch may
    be tried again); passed ones make room first. One that is larger than all before it, or than
    the bound, may be too much by itself.

    Args:
        data: where pictures come from.
        rows: those that will be asked for, increasing; None for all. No other is opened ahead.
    """

    def __init__(self, data: TrainingSet, rows: Sequence[int] | None = None) -> None:
        self._data = data
        self._rows = range(len(data)) if rows is None else rows
        self._held: dict[int, Opened] = {}  # by place among the rows
        self._asked = 0  # the place that is asked for, or was last
        self._largest = 0  # bytes of one picture
        self._closed = False
        self._asking = Lock()  # one at a time: who waits for a place must not lose it
        self._changed = Condition()
        self._thread = Thread(target=self._open_ahead, name="headwater-images", daemon=True)
        self._thread.start()

    def image(self, row: int) -> Image.Image:
        """The picture of a row; what `TrainingSet.image` raises."""
        place = bisect_left(self._rows, row)
        if place == len(self._rows) or self._rows[place] != row:
            return self._data.image(row)
        with self._asking, self._changed:
            self._asked = place
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or place in self._held)
            opened = self._held.get(place)
        if opened is None:  # the reader is closed
            return self._data.image(row)
        if isinstance(opened, BaseException):
            raise opened
        return opened

    def close(self) -> None:
        """End the thread, once the picture that it is at is open."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def held_bytes(self) -> int:
        """Of the pixels that are held."""
        return sum(map(_bytes_of, self._held.values()))

    def _open_ahead(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                if self._closed:
                    return
                place = self._next()
                assert place is not None, "it was waited for"
                self._make_room(place)
            opened = self._open(self._rows[place])
            with self._changed:
                self._held[place] = opened
                self._largest = max(self._largest, _bytes_of(opened))
                self._changed.notify_all()

    def _open(self, row: int) -> Opened:
        try:
            return self._data.image(row)
        except BaseException as error:  # raised again where the row is asked for
            return error

    def _next(self) -> int | None:
        """The place to open next: the first that is not held, if there is or can be made room."""
        end = min(self._asked + AHEAD, len(self._rows))
        place = next((p for p in range(self._asked, end) if p not in self._held), None)
        if place is None or place == self._asked:  # which somebody waits for
            return place
        ahead = [_bytes_of(self._held[p]) for p in range(self._asked, place)]
        return place if sum(ahead) + self._largest <= HELD_BYTES else None

    def _make_room(self, place: int) -> None:
        """Drop pictures that were passed, then those furthest ahead, until one more fits."""
        passed = sorted(p for p in self._held if p < self._asked)
        beyond = sorted((p for p in self._held if p > place), reverse=True)
        for dropped in (*passed, *beyond):
            fits = self.held_bytes + self._largest <= HELD_BYTES
            if fits and len(self._held) < AHEAD:
                return
            del self._held[dropped]


def _bytes_of(opened: Opened) -> int:
    return 0 if isinstance(opened, BaseException) else opened.width * opened.height * _PIXEL


@contextmanager
def reading(data: TrainingSet, rows: Sequence[int] | None = None) -> Iterator[Reader]:
    """A reader of these rows of a data set, None for all; its thread ends with the block."""
    reader = Reader(data, rows)
    try:
        yield reader
    finally:
        reader.close()
