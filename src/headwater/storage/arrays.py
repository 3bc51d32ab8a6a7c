"""Rows of numbers in files of NumPy: with its header, or bare, as `np.memmap` writes them.

Nothing is read that is not asked for: a file of any size is a map of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import StoreError, first_line

_MAGIC = b"\x93NUMPY"
_BARE = np.dtype("<f4")  # what files without a header hold
_BLOCK = 2**28  # bytes of float32 that are in memory at a time


def open_rows(path: Path, dim: int | None) -> np.ndarray:
    """The rows of a file, [n, k], mapped and not read.

    Args:
        dim: k. A file without a header (float32, little-endian) says nothing of it; None is for
            files that have one.

    Raises:
        StoreError: it is missing, cut off, or holds no rows of so many numbers.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC))
        if begins == _MAGIC:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            rows = _bare(path, dim)
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: copy it there again") from None
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path} cannot be read ({first_line(error)}): copy it again") from None
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.dtype.kind != "f" or not rows.size:
        shape = " x ".join(map(str, rows.shape))
        raise StoreError(f"{path} holds {rows.dtype} of {shape}: give rows of floats")
    if dim is not None and rows.shape[1] != dim:
        raise StoreError(f"{path} has rows of {rows.shape[1]:,} features, not of {dim:,}")
    return rows


def _bare(path: Path, dim: int | None) -> np.ndarray:
    size = path.stat().st_size
    if dim is None:
        raise ValueError("it has no header, so nothing says how long its rows are")
    if not size or size % (dim * _BARE.itemsize):
        raise ValueError(f"{size:,} bytes are no whole number of rows of {dim:,} float32")
    return np.memmap(path, _BARE, mode="r", shape=(size // (dim * _BARE.itemsize), dim))


def row_blocks(rows: np.ndarray) -> Iterator[Float[Tensor, "r k"]]:
    """The rows as float32, some at a time.

    >>> [tuple(block.shape) for block in row_blocks(np.ones((3, 2), np.float16))]
    [(3, 2)]
    """
    step = max(1, _BLOCK // (4 * rows.shape[1]))
    for start in range(0, len(rows), step):
        yield torch.from_numpy(np.array(rows[start : start + step], np.float32))
