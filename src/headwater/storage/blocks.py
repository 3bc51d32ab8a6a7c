"""Feature rows of an index, read: some at a time, each file's checksum first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
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
        buffer: what the rows are put into, of as many as the largest shard has, on any device: each
            block is then good until the next, and most of the time is saved, which memory takes to
            be given. Rows go to a GPU as they are stored, in half of the bytes.
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
            yield rows.copy_(features.to(rows.device)).mul_(scale.to(rows.device)[:, None])
        except (SafetensorError, KeyError) as error:
            raise StoreError(f"{path} cannot be read ({error}): {mend(folder)}") from None


@dataclass(frozen=True)
class Part:
    """Rows of an index: all, or those that somebody else is to read.

    Attributes:
        manifest: of the index, with the shards that hold them.
        chosen: of each row of these shards, whether it is one of them; None: all are.
    """

    manifest: Manifest
    chosen: Bool[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return self.manifest.rows if self.chosen is None else int(self.chosen.sum())


def read_part(
    folder: Path, part: Part, verified: Verified | None = None, device: str | None = "cpu"
) -> Iterator[Float[Tensor, "r k"]]:
    """The rows of a part, some at a time, as `read_blocks`.

    Args:
        device: where the one piece of memory is that they are put into, so that each block is good
            until the next; None for a piece of its own for each, on the CPU.

    Raises:
        StoreError: a shard is missing, truncated or changed.
    """
    dim, buffer = part.manifest.recipe["dim"], None
    if device is not None:
        largest = max((shard.rows for shard in part.manifest.shards), default=0)
        buffer = torch.empty(largest, dim, device=device)
    chosen, start = None if part.chosen is None else torch.tensor(part.chosen), 0
    for block in read_blocks(folder, part.manifest, verified, buffer):
        yield block if chosen is None else block[chosen[start : start + len(block)]]
        start += len(block)


def narrowed(part: Part, inside: Bool[Tensor, " n"] | None) -> Part:
    """The rows of a part that are inside; None: all are."""
    if inside is None:
        return part
    chosen = inside.numpy()
    if part.chosen is not None:
        chosen = part.chosen.copy()
        chosen[part.chosen] = inside.numpy()
    return Part(part.manifest, chosen)


def without_idle_shards(part: Part) -> Part:
    """The same rows, without shards that hold none of them; a mask that says nothing goes too."""
    if part.chosen is None or part.chosen.all():
        return Part(part.manifest)
    ends = np.cumsum([shard.rows for shard in part.manifest.shards])
    masks = np.split(part.chosen, ends[:-1])
    held = [(s, m) for s, m in zip(part.manifest.shards, masks, strict=True) if m.any()]
    manifest = replace(part.manifest, shards=tuple(shard for shard, _ in held))
    return Part(manifest, np.concatenate([mask for _, mask in held] or [part.chosen[:0]]))


def divided(part: Part, count: int) -> list[Part]:
    """A part in so many or fewer, of whole shards one after the other, about alike in rows on disk.

    None of them is empty. Its shards, and how many are wanted, decide which they are.
    """
    part = without_idle_shards(part)
    shards, whole = part.manifest.shards, part.manifest.rows
    starts = list(accumulate((shard.rows for shard in shards), initial=0))
    groups: dict[int, list[int]] = {}
    for place, shard in enumerate(shards):
        if shard.rows:  # a shard belongs where its middle lies
            middle = 2 * starts[place] + shard.rows
            groups.setdefault(middle * count // (2 * whole), []).append(place)
    found = []
    for places in groups.values():
        first, last = places[0], places[-1] + 1
        own = replace(part.manifest, shards=shards[first:last], removed=())
        rows = slice(starts[first], starts[last])
        chosen = None if part.chosen is None else part.chosen[rows]
        found.append(without_idle_shards(Part(own, chosen)))
    return found


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
