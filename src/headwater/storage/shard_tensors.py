"""What the tensors of a shard have to be (docs/format.md), which no checksum says.

An index may be of a stranger, whose checksums are right. The form stands in a file's header; the
numbers are looked at once, when the checksum is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headwater.errors import StoreError, first_line
from headwater.storage.arrays import open_rows, row_blocks
from headwater.storage.manifest import Shard

# Of a float16 without its sign: from here on it is infinite or NaN.
_INFINITE = 0x7C00
_LARGEST = torch.finfo(torch.float32).max / torch.finfo(torch.float16).max
_AT_ONCE = 1 << 20  # numbers, which the fastest memory holds


def wrong_with(path: Path, shard: Shard, dim: int) -> str:
    """What of a file of rows is not as it has to be, in words; "" where all is.

    Args:
        shard: what the index says of it.
        dim: features in a row.

    Example:
        wrong_with(folder / shard.file, shard, manifest.recipe["dim"])
    """
    try:
        if path.suffix == ".npy":
            _require_array(path, shard, dim)
        else:
            _require_tensors(path, shard, dim)
    except (OSError, SafetensorError, StoreError, ValueError) as error:
        return first_line(error)
    return ""


def column_of(file: Any, shard: Shard, name: str) -> Tensor | None:
    """`position` [r] or `residual` [r, p] of a shard, in memory; None where it has no residual.

    Raises:
        ValueError: it is of another form, or its numbers are not what they have to be.
        SafetensorError: it cannot be read.

    Example:
        with safe_open(path, "pt") as file:
            residuals = column_of(file, shard, "residual")
    """
    if name == "residual" and name not in file.keys():
        return None
    dtype, shape = ("I64", [shard.rows]) if name == "position" else ("F32", [shard.rows, None])
    _require_form(file, name, dtype, shape)
    # a copy: what maps a file keeps its bytes on the disk after it is removed
    column = file.get_tensor(name).clone()
    if name == "position":
        _require_positions(column, shard)
    elif not column.isfinite().all():
        raise ValueError(f"{name} is not finite")
    return column


def _require_tensors(path: Path, shard: Shard, dim: int) -> None:
    with safe_open(path, "pt") as file:
        _require_form(file, "features", "F16", [shard.rows, dim])
        _require_form(file, "scale", "F32", [shard.rows])
        column_of(file, shard, "position")
        column_of(file, shard, "residual")
        _require_numbers(file.get_tensor("features"), file.get_tensor("scale"))


def _require_form(file: Any, name: str, dtype: str, shape: Sequence[int | None]) -> None:
    """Refuse a tensor of another type or shape, of which None is any length."""
    if name not in file.keys():
        raise ValueError(f"it has no {name}")
    own = file.get_slice(name)
    found = own.get_shape()
    same = len(found) == len(shape) and all(
        w in (f, None) for f, w in zip(found, shape, strict=True)
    )
    if own.get_dtype() != dtype or not same:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} is {own.get_dtype()} of {found}, and not {dtype} of [{wanted}]")


def _require_positions(positions: Tensor, shard: Shard) -> None:
    end = shard.first + shard.rows + len(shard.skipped)
    inside = (positions >= shard.first).all() and (positions < end).all()
    if not inside or not (positions.diff() > 0).all():
        raise ValueError(f"position does not ascend within {shard.first} to {end - 1}")


def _require_numbers(features: Tensor, scale: Tensor) -> None:
    """Refuse rows, features times their scale, that are NaN or infinite."""
    if not (scale.isfinite() & (scale > 0)).all():
        raise ValueError("scale is not positive and finite")
    if not features.numel():
        return
    large = bool((scale > _LARGEST).any())  # with which some float16 are infinite
    for part, own in zip(_pieces(features), _pieces(scale, features.shape[1]), strict=True):
        # as integers, which is ten times as fast as `isfinite`
        if int((part.view(torch.int16) & 0x7FFF).amax()) >= _INFINITE:
            raise ValueError("features are not finite")
        if large and not (part.float() * own[:, None]).isfinite().all():
            raise ValueError("features times their scale are not finite")


def _pieces(rows: Tensor, dim: int | None = None) -> tuple[Tensor, ...]:
    return rows.split(max(1, _AT_ONCE // (dim or rows.shape[1])))


def _require_array(path: Path, shard: Shard, dim: int) -> None:
    rows = open_rows(path, dim)
    if len(rows) != shard.rows:
        raise ValueError(f"it holds {len(rows):,} rows, and not {shard.rows:,}")
    if not all(bool(block.isfinite().all()) for block in row_blocks(rows)):
        raise ValueError("its rows are not finite")
