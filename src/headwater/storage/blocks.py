"""Feature rows of an index, read: some at a time, each file's checksum first.

Of an index at a URL, its folder here being a copy, each file is copied when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headwater.errors import StoreError
from headwater.storage.arrays import open_rows, row_blocks
from headwater.storage.manifest import Manifest, Shard
from headwater.storage.shard_files import (
    Identity,
    Place,
    Verified,
    identity_of,
    is_right,
    place_of,
    shard_files,
)
from headwater.storage.shard_tensors import column_of, wrong_with
from headwater.storage.shards import mend


def read_blocks(
    folder: Path,
    manifest: Manifest,
    verified: Verified | None = None,
    buffer: Float[Tensor, "n k"] | None = None,
) -> Iterator[Float[Tensor, "r k"]]:
    """Feature rows, some at a time, as float32. Each file's checksum is verified first.

    Args:
        buffer: what the rows are put into, as many at a time as it holds, on any device: each block
            is then good until the next, and most of the time is saved, which memory takes to be
            given. Rows go to a GPU as they are stored, in half of the bytes. None: whole shards.
        verified: of whom was found right before, and is taken for that as long as its file is the
            same; those found right now are added.

    Raises:
        StoreError: a shard is missing, truncated, changed, or not as it has to be
            (`shard_tensors`); or as `shard_files`.
    """
    verified = {} if verified is None else verified
    for shard, path in _right_files(folder, manifest, manifest.shards, verified):
        identity = verified[shard.file]
        if path.suffix == ".npy":
            yield from _blocks_of(path, identity, manifest.recipe["dim"])
            continue
        try:
            yield from _rows_of(path, identity, buffer)
        except (SafetensorError, KeyError) as error:
            raise StoreError(f"{path} cannot be read ({error}): {mend(folder)}") from None


def _rows_of(
    path: Path, identity: Identity, buffer: Float[Tensor, "n k"] | None
) -> Iterator[Float[Tensor, "r k"]]:
    with safe_open(path, "pt") as file:
        features, scale = file.get_tensor("features"), file.get_tensor("scale")
    _require_unchanged(path, identity)
    buffer = torch.empty(features.shape) if buffer is None else buffer
    for stored, scales in zip(features.split(len(buffer)), scale.split(len(buffer)), strict=True):
        rows = buffer[: len(stored)].copy_(stored.to(buffer.device))
        yield rows.mul_(scales.to(buffer.device)[:, None])


def _blocks_of(path: Path, identity: Identity, dim: int) -> Iterator[Float[Tensor, "r k"]]:
    rows = open_rows(path, dim)
    _require_unchanged(path, identity)
    yield from row_blocks(rows)


def _right_files(
    folder: Path, manifest: Manifest, shards: Sequence[Shard], verified: Verified
) -> Iterator[tuple[Shard, Path]]:
    """Each shard and its file, which is there, has its checksum, and holds such rows."""
    for shard, path in zip(shards, shard_files(folder, shards, verified), strict=True):
        if not path.is_file():
            raise StoreError(f"{path} is missing: {mend(folder)}")
        if not is_right(path, shard, verified):
            raise StoreError(
                f"{path} is damaged (its checksum differs from index.json): {mend(folder)}"
            )
        _require_rows(folder, path, shard, manifest.recipe["dim"], verified)
        yield shard, path


def _require_rows(folder: Path, path: Path, shard: Shard, dim: int, verified: Verified) -> None:
    """Refuse a file whose tensors are not as they have to be, whatever its checksum says.

    They are looked at once, as long as the file is the same.
    """
    looked_at, identity = f"tensors of {shard.file}", verified[shard.file]
    if verified.get(looked_at) != identity:
        wrong = wrong_with(path, shard, dim)
        _require_unchanged(path, identity)
        if wrong:
            raise StoreError(f"{path} is no shard of this index ({wrong}): {mend(folder)}")
        verified[looked_at] = identity


def _require_unchanged(path: Path, identity: Identity) -> None:
    """Refuse what was put into a file's place, or taken away, after its checksum was taken."""
    if not path.is_file() or identity_of(path) != identity:
        raise StoreError(f"{path} was replaced while it was read: ask again")


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
    folder: Path,
    part: Part,
    verified: Verified | None = None,
    device: str | None = "cpu",
    rows: int | None = None,
) -> Iterator[Float[Tensor, "r k"]]:
    """The rows of a part, some at a time, as `read_blocks`.

    Args:
        device: where the one piece of memory is that they are put into, so that each block is good
            until the next; None for a piece of its own for each, on the CPU.
        rows: how many at a time at most; None: whole shards.

    Raises:
        StoreError: a shard is missing, truncated or changed.
    """
    dim, buffer = part.manifest.recipe["dim"], None
    if device is not None:
        largest = max((shard.rows for shard in part.manifest.shards), default=0)
        buffer = torch.empty(min(largest, rows or largest), dim, device=device)
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


def read_rows(
    folder: Path, part: Part, rows: Sequence[int], verified: Verified | None = None
) -> StoredRows:
    """Some rows of a part, by where they stand in it, in the order that is asked for.

    Little else of their shards is read, once these are known to be right.

    Args:
        verified: as of `read_blocks`.

    Raises:
        StoreError: a shard is missing, truncated or changed.
    """
    shards, dim = part.manifest.shards, part.manifest.recipe["dim"]
    verified = {} if verified is None else verified
    wanted = torch.tensor(list(rows), dtype=torch.int64)
    if part.chosen is not None:  # from here on where they stand in the shards
        wanted = torch.from_numpy(np.flatnonzero(part.chosen))[wanted]
    starts = accumulate((shard.rows for shard in shards), initial=0)
    found: dict[str, Tensor] = {}
    inside = [
        (start, (wanted >= start) & (wanted < start + shard.rows))
        for start, shard in zip(starts, shards, strict=False)
    ]
    asked = [place for place, (_, here) in enumerate(inside) if here.any()]
    files = _right_files(folder, part.manifest, [shards[place] for place in asked], verified)
    for place, (shard, path) in zip(asked, files, strict=True):
        start, here = inside[place]
        for name, own in _some_of(path, wanted[here] - start, dim).items():
            rest = (len(wanted), *own.shape[1:])
            found.setdefault(name, torch.empty(rest, dtype=own.dtype))[here] = own
        _require_unchanged(path, verified[shard.file])
    if not found:
        return StoredRows(torch.empty(0, dim), torch.empty(0), None)
    scale = found["scale"]
    return StoredRows(found["features"].float() * scale[:, None], scale, found.get("residual"))


def _some_of(path: Path, rows: Int[Tensor, " r"], dim: int) -> dict[str, Tensor]:
    """What is stored of some rows of a file, both kinds of which are mapped and not read."""
    if path.suffix == ".npy":
        features = np.array(open_rows(path, dim)[rows.numpy()], np.float32)
        return {"features": torch.from_numpy(features), "scale": torch.ones(len(rows))}
    with safe_open(path, "pt") as file:
        names = {"features", "scale", "residual"}.intersection(file.keys())
        return {name: file.get_tensor(name)[rows] for name in names}


def read_positions(folder: Path, shards: Sequence[Shard]) -> list[int]:
    """The data set row of every stored row, in stored order."""
    found = _column(folder, shards, "position")
    return [] if found is None else found.tolist()


def read_residuals(
    folder: Path, shards: Sequence[Shard], verified: Verified | None = None
) -> Float[Tensor, "n p"] | None:
    """The residuals of every stored row; None where the features have none."""
    return _column(folder, shards, "residual", verified)


def _column(
    folder: Path, shards: Sequence[Shard], name: str, verified: Verified | None = None
) -> Tensor | None:
    own = [shard for shard in shards if not shard.file.endswith(".npy")]  # which are rows alone
    parts, widths = [], set()
    verified = {} if verified is None else verified
    is_copy = isinstance(place_of(folder), Place)
    for shard, path in zip(own, shard_files(folder, own, verified), strict=True):
        try:
            # of a folder here no checksum is taken
            identity = verified[shard.file] if is_copy else identity_of(path)
            with safe_open(path, "pt") as file:
                part = column_of(file, shard, name)
        except (OSError, SafetensorError, ValueError) as error:
            raise StoreError(f"{path} cannot be read ({error}): {mend(folder)}") from None
        _require_unchanged(path, identity)
        if not shard.rows:
            continue
        width = None if part is None else part.shape[1:]
        if widths and width not in widths:  # rows would be taken for those of others
            raise StoreError(
                f"{path} has another {name} than shards before it: build the index again with "
                "--overwrite"
            )
        widths.add(width)
        parts += [] if part is None else [part]
    return torch.cat(parts) if parts else None
