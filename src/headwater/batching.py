"""How many images at a time: what the user said, or the largest that memory lets through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from headwater.errors import ResourceError

Result = TypeVar("Result")


class BatchSize:
    """A batch size that halves when memory runs out, and stays there.

    Args:
        given: a fixed size, or None to start at 32 and find out.
        note: called with one line when the size changes.
    """

    LARGEST = 32

    def __init__(self, given: int | None, note: Callable[[str], None] = lambda line: None) -> None:
        self.size = given or self.LARGEST
        self._automatic = given is None
        self._note = note

    def over(
        self, items: Sequence[int], compute: Callable[[Sequence[int]], Result]
    ) -> Iterator[Result]:
        """Results of `compute` over consecutive parts of `items`.

        Raises:
            ResourceError: memory ran out at a size that the user gave, or at 1.
        """
        start = 0
        while start < len(items):
            part = items[start : start + self.size]
            try:
                result = compute(part)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                self._halve(error)
            else:
                yield result
                start += len(part)
                continue
            if torch.cuda.is_available():  # now that the error holds the failed graph no more
                torch.cuda.empty_cache()

    def _halve(self, error: Exception) -> None:
        if not self._automatic or self.size == 1:
            fits = (
                f"give --batch-size {self.size // 2} or auto"
                if self.size > 1
                else ("choose fewer --parameters or a machine with more")
            )
            raise ResourceError(
                f"out of memory at batch size {self.size}: {fits}; finished work is kept"
            ) from error
        self.size //= 2
        self._note(f"out of memory: going on with batches of {self.size}")


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error)  # how torch's CPU allocator says it
