"""Feature rows of an index, read: some at a time, each file's checksum first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headwater.errors import StoreError
from headwater.storage.arrays import open_rows, row_blocks
from headwater.storage.manifest import Manifest, Shard
from headwater.storage.shards import is_same, mend

# Shards that were read through, by their files: size, time of the last change, place on the disk.
Verified = dict[str, tuple[int, int, int]]


def read_blocks(
    folder: Path,
    manifest: Manifest,
    verified: Verified | None = None,
    buffer: Float[Tensor, "n k"] | None = None,
) -> Iterator[Float[Tensor, "r k"]]:
    """Feature rows, some at a time, as float32. Each file's checksum is verified first.

    Args:
        buffer: what the rows are put into, of as many as the largest shard has: each block is then
            good until the next, and most of the time is saved, which memory takes to be given.
        verified: of whom was found right before, and is taken for that as long as its file is the
            same; those found right now are added.

    Raises:
        StoreError: a shard is missing, truncated or changed.
    """
    verified = {} if verified is None else verified
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.is_file():
            raise StoreError(f"{path} is missing: {mend(folder)}")
        status = path.stat()
        identity = status.st_size, status.st_mtime_ns, status.st_ino
        if verified.get(shard.file) != identity:
            if not is_same(path, shard):
                raise StoreError(
                    f"{path} is damaged (its checksum differs from index.json): {mend(folder)}"
                )
            verified[shard.file] = identity
        if path.suffix == ".npy":
            yield from row_blocks(open_rows(path, manifest.recipe["dim"]))
            continue
        try:
            with safe_open(path, "pt") as file:
                features, scale = file.get_tensor("features"), file.get_tensor("scale")
            rows = torch.empty(features.shape) if buffer is None else buffer[: len(features)]
            yield rows.copy_(features).mul_(scale[:, None])
        except (SafetensorError, KeyError) as error:
            raise StoreError(f"{path} cannot be read ({error}): {mend(folder)}") from None


class StoredRows(NamedTuple):
    """Rows as they are stored, to be stored again without another rounding."""

    features: Float[Tensor, "r k"]
    scale: Float[Tensor, " r"]
    residuals: Float[Tensor, "r p"] | None


def read_rows(folder: Path, manifest: Manifest, rows: Sequence[int]) -> StoredRows:
    """Some rows of an index, by where they stand in its shards, in the order that is asked for.

    Raises:
        StoreError: a shard is missing, truncated or changed.
    """
    bounds = list(accumulate((shard.rows for shard in manifest.shards), initial=0))
    wanted = torch.tensor(list(rows), dtype=torch.int64)
    found: dict[str, Tensor] = {}
    for number, shard in enumerate(manifest.shards):
        here = (wanted >= bounds[number]) & (wanted < bounds[number + 1])
        if not here.any():
            continue
        path = folder / shard.file
        if not path.is_file() or not is_same(path, shard):
            raise StoreError(f"{path} is missing or damaged: {mend(folder)}")
        with safe_open(path, "pt") as file:
            for name in {"features", "scale", "residual"}.intersection(file.keys()):
                own = file.get_tensor(name)[wanted[here] - bounds[number]]
                rest = (len(wanted), *own.shape[1:])
                found.setdefault(name, torch.empty(rest, dtype=own.dtype))[here] = own
    if not found:
        return StoredRows(torch.empty(0, manifest.recipe["dim"]), torch.empty(0), None)
    scale = found["scale"]
    return StoredRows(found["features"].float() * scale[:, None], scale, found.get("residual"))


def read_positions(folder: Path, shards: Sequence[Shard]) -> list[int]:
    """The data set row of every stored row, in stored order."""
    found = _column(folder, shards, "position")
    return [] if found is None else found.tolist()


def read_residuals(folder: Path, shards: Sequence[Shard]) -> Float[Tensor, "n p"] | None:
    """The residuals of every stored row; None where the features have none."""
    return _column(folder, shards, "residual")


def _column(folder: Path, shards: Sequence[Shard], name: str) -> Tensor | None:
    parts = []
    for shard in shards:
        if shard.file.endswith(".npy"):  # rows alone
            continue
        try:
            with safe_open(folder / shard.file, "pt") as file:
                if name in file.keys() and shard.rows:
                    parts.append(file.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"{folder / shard.file} cannot be read ({error}): {mend(folder)}"
            ) from None
    return torch.cat(parts) if parts else None
