"""How many images at a time: what the user said, or the largest that memory safely holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from headwater.errors import ParameterError, ResourceError
from headwater.runtime.memory import kept_bytes, room_bytes

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# On the CPU the system kills a process that takes too much before it could halve, so the size is
# chosen to stay below this share of memory...
SAFE_SHARE = 0.7
# ...at this multiple of what one forward pass keeps: the gradients of all outputs are as large
# again, and layers need room to work.
ROOM_TO_WORK = 3


class BatchSize:
    """A batch size that fits in memory; it halves when memory runs out all the same.

    Args:
        given: a fixed size, or None to find the largest that is safe, up to 32 (256 on a GPU).
        note: called with one line when the size has been found, and when it must change; by default
            the log hears of it, of a size that was found as of a detail.
        device: whose memory counts.
        sharing: how many processes share it.
        needed: bytes that one item keeps, where that is known; else one is tried.

    Raises:
        ParameterError: the size is less than 1.
    """

    # More brings no speed on a CPU; with less, small models leave a GPU idle (docs/performance.md).
    LARGEST, LARGEST_ON_GPU = 32, 256

    def __init__(
        self,
        given: int | None,
        note: Callable[[str], None] | None = None,
        device: torch.device | str = "cpu",
        sharing: int = 1,
        needed: int | None = None,
    ) -> None:
        if given is not None and given < 1:
            raise ParameterError(f"--batch-size {given} must be at least 1, or auto")
        self.size = given or 1
        self._automatic = self._unknown = given is None
        self._note_size, self._note_change = note or log.debug, note or log.info
        self._device = torch.device(device)
        self._safe = SAFE_SHARE / sharing
        self.needed = needed

    @property
    def largest(self) -> int:
        """What is tried first."""
        return self.LARGEST_ON_GPU if self._device.type == "cuda" else self.LARGEST

    def over(
        self,
        items: Sequence[int],
        compute: Callable[[Sequence[int]], Result],
        trial: Callable[[], object] | None = None,
    ) -> Iterator[Result]:
        """Results of `compute` over consecutive parts of `items`.

        Args:
            trial: keeps as much in memory as one item does; by default the first is computed. Of a
                single item nothing is tried.

        Raises:
            ResourceError: memory ran out at a size that the user gave, or at 1.
        """
        start = 0
        while start < len(items):
            part = items[start : start + self.size]
            try:
                if self._unknown and len(items) > 1:  # one fits or does not, which it says itself
                    self._find(trial or (lambda: compute(items[:1])))
                    continue
                result = compute(part)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(error)
            else:
                yield result
                start += len(part)
                continue
            if torch.cuda.is_available():  # now that the error holds the failed graph no more
                torch.cuda.empty_cache()

    def _find(self, compute_one: Callable[[], object]) -> None:
        """Choose by one item, whose result is not used: how rows are batched changes how they
        round, so a run that is resumed must batch them as one that was not.
        """

        def attempt() -> None:
            try:
                compute_one()
            except Exception as error:
                if out_of_memory(error):
                    raise
                # whatever else is wrong, the batch will say it of all its items

        if self.needed is None:
            self.needed = kept_bytes(attempt)
        item = ROOM_TO_WORK * self.needed
        room, self.size = room_bytes(self._device), self.largest
        while room is not None and self.size > 1 and self.size * item > self._safe * room:
            self.size //= 2
        self._unknown = False
        log.debug("one item takes %d bytes, there is room for %s", item, room)
        self._note_size(f"batches of {self.size}")

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
        self._note_change(f"out of memory: going on with batches of {self.size}")


# How libraries under torch say that memory ran out, who have no exception of that name: torch's
# CPU allocator, and what maps files for it; oneDNN, which drops its own status code
# (`error::wrap_c_api` in dnnl.hpp) and fails so where it cannot map memory for a kernel or its
# scratchpad; CUDA's libraries.
_SAID_BY_TORCH = (
    "can't allocate memory",
    "not enough memory: you tried to allocate",
    "Cannot allocate memory (12)",
)
_SAID_BY_ONEDNN = (
    "could not create a primitive",
    "could not create a memory",
    "could not create a memory object",
    "could not execute a primitive",
)
_SAID_BY_CUDA = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out. Arrow's is a `MemoryError` by itself."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return text.strip() in _SAID_BY_ONEDNN or any(
        part in text for part in (*_SAID_BY_TORCH, *_SAID_BY_CUDA)
    )
