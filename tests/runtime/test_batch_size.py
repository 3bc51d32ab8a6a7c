"""How an error says that memory ran out, and what is done about it."""

import logging

import pyarrow as pa
import pytest
import torch

from headwater.errors import ResourceError
from headwater.runtime.batch_size import BatchSize, out_of_memory

# As torch 2.13 with oneDNN raised them in a process with `RLIMIT_AS`, and CUDA's libraries do.
SAID = [
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 33554432 bytes. Error code 12 (Cannot allocate memory)",
    "unable to mmap 256048 bytes from file </x/bases.safetensors>: Cannot allocate memory (12)",
    "could not create a primitive",
    "could not create a memory object",
    "could not execute a primitive",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
]
ERRORS = [*map(RuntimeError, SAID), MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")]
OTHERS = [
    RuntimeError("could not create a primitive descriptor for the matmul primitive"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
    ValueError("could not create a primitive type"),
]


def arrow_error() -> Exception:
    with pytest.raises(pa.ArrowException) as caught:
        pa.allocate_buffer(1 << 60)
    return caught.value


@pytest.mark.parametrize("error", [*ERRORS, arrow_error()], ids=lambda error: str(error)[-40:])
def test_out_of_memory_is_known_however_it_is_said(error):
    sizes = []

    def compute(part):
        sizes.append(len(part))
        if len(part) > 2:
            raise error
        return list(part)

    assert out_of_memory(error)
    batch = BatchSize(None)
    assert [row for part in batch.over(range(40), compute) for row in part] == [*range(40)]
    assert max(sizes) > 2 and batch.size == 2
    with pytest.raises(ResourceError, match="out of memory at batch size 4: give --batch-size 2"):
        list(BatchSize(4).over(range(8), compute))


@pytest.mark.usefixtures("memory_is_tried")
def test_a_single_item_is_computed_once_and_says_nothing_of_others():
    batch, parts = BatchSize(None), []
    for items in (range(5, 6), range(3)):
        list(batch.over(items, parts.append))
    assert [*map(list, parts)] == [[5], [0], [0, 1, 2]]


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: str(error)[-40:])
def test_what_is_no_lack_of_memory_is_raised(error):
    def compute(part):
        raise error

    assert not out_of_memory(error)
    with pytest.raises(type(error)) as caught:
        list(BatchSize(4).over(range(8), compute))
    assert caught.value is error


def test_what_was_chosen_is_logged_where_nobody_is_told(caplog):
    """As a detail: who asks a question needs no word of it."""
    with caplog.at_level("DEBUG", logger="headwater"):
        list(BatchSize(None).over(range(3), list))
    assert caplog.record_tuples[-1][1:] == (logging.DEBUG, "batches of 32")


def test_that_memory_ran_out_is_logged_where_nobody_is_told(caplog):
    def compute(part):
        if len(part) > 16:
            raise MemoryError

    with caplog.at_level("INFO", logger="headwater"):
        list(BatchSize(None).over(range(32), compute))
    assert caplog.messages == ["out of memory: going on with batches of 16"]
