"""Pictures opened ahead of time, in the background."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from PIL import Image

from headwater.data.training_set import TrainingSet

AHEAD = 64  # pictures; enough for the next batch


class Reader:
    """Pictures of consecutive rows, opened in the background before they are asked for."""

    def __init__(self, data: TrainingSet, pool: ThreadPoolExecutor) -> None:
        self._data = data
        self._pool = pool
        self._opening: dict[int, Future[Image.Image]] = {}

    def image(self, row: int) -> Image.Image:
        """The picture of a row; what `TrainingSet.image` raises."""
        for ahead in range(row, min(row + AHEAD, len(self._data))):
            if ahead not in self._opening:
                self._opening[ahead] = self._pool.submit(self._data.image, ahead)
        for passed in [r for r in self._opening if r < row - AHEAD]:  # a batch may be tried again
            del self._opening[passed]
        return self._opening[row].result()


@contextmanager
def reading(data: TrainingSet) -> Iterator[Reader]:
    """A reader of this data set; its thread ends with the block."""
    pool = ThreadPoolExecutor(1, "headwater-images")
    try:
        yield Reader(data, pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
