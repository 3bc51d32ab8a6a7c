"""The index on disk: shards of feature rows, a manifest, checksums. Written so that it can resume.

A folder with `index.json` (the manifest), `samples.parquet` (what each row is of) and
`features/NNNNN.safetensors`. A shard covers a fixed range of the data set, so what a shard holds
depends on neither batch size nor worker. Everything is written under a temporary name, synced and
renamed: what has its final name is whole. docs/format.md is the specification.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headwater.errors import StoreError
from headwater.storage.files import (
    checksum_of,
    digest_of,
    has_checksum,
    read_json,
    remove_parts,
    renamed,
    sha256_of,
    write_text,
)
from headwater.storage.manifest import (
    Manifest,
    Shard,
    manifest_from_json,
    run_of,
    shard_from_json,
    write_manifest,
)
from headwater.storage.room import rows_at
from headwater.storage.shard_tensors import wrong_with

# --- shards -------------------------------------------------------------------------------------


def shard_count(rows: int, shard_rows: int) -> int:
    """How many shards there are."""
    return -(-rows // shard_rows)


def shard_ranges(rows: int, shard_rows: int) -> list[range]:
    """The data set rows that each shard covers."""
    return [range(i, min(i + shard_rows, rows)) for i in range(0, rows, shard_rows)]


def default_shard_rows(rows: int) -> int:
    """About 32 shards, of 64 to 4,096 rows: small sets resume finely, large ones scan fast."""
    return max(64, min(4096, -(-rows // 32)))


@dataclass(frozen=True)
class ShardRows:
    """What one shard holds.

    Args:
        features: a row for each image.
        positions: the data set row of each, ascending.
        skipped: ids of images in the shard's range that were left out.
        residuals: of each probe of each row, where noise was drawn.
        scale: of rows that were stored before, so that they are stored again as they were; 0 of
            others. None if there are none.
    """

    features: Float[Tensor, "r k"]
    positions: Sequence[int]
    skipped: Sequence[str] = ()
    residuals: Float[Tensor, "r p"] | None = None
    scale: Float[Tensor, " r"] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """As they are stored: float16 rows with one float32 scale each, their root mean square.

        So no method's magnitudes leave float16's range.
        """
        dim = self.features.shape[1]
        # In float64: the square of a large or small float32 is infinite or zero.
        norm = torch.linalg.vector_norm(self.features, dim=1, dtype=torch.float64)
        scale = (norm / dim**0.5).clamp_min(torch.finfo(torch.float32).tiny).float()  # [r]
        if self.scale is not None:
            scale = torch.where(self.scale > 0, self.scale, scale)
        tensors = {
            "features": (self.features / scale[:, None]).half().cpu().contiguous(),
            "scale": scale.cpu(),
            "position": torch.tensor(list(self.positions), dtype=torch.int64),
        }
        if self.residuals is not None:
            tensors["residual"] = self.residuals.float().contiguous()
        return tensors


def write_shard(folder: Path, manifest: Manifest, number: int, rows: ShardRows) -> Shard:
    """Write one shard and the note (`.json` beside it) that says it is whole.

    The file says of which index it is, so that what is lost of that can be written again.

    Args:
        folder: of the index.
        manifest: of the index.
        number: of the shard, which its file is named after.
        rows: what it holds.
    """
    name, first = shard_name(number), number * manifest.shard_rows
    facts = asdict(replace(manifest, complete=False, samples_sha256="", shards=(), removed=()))
    tensors, path = rows.tensors(), folder / name
    said = {"index": facts, "first": first, "skipped": list(rows.skipped)}
    # One text: safetensors writes several in an order of its own, at each time another.
    metadata = {"headwater": json.dumps({**said, "sha256": _digest(said, tensors)})}
    with renamed(path) as part:
        save_file(tensors, part, metadata)
    shard = Shard(
        name, first, len(rows.features), tuple(rows.skipped), path.stat().st_size, checksum_of(path)
    )
    write_note(folder, manifest, shard)
    return shard


def shard_name(number: int) -> str:
    """Where a shard lies in the folder of an index.

    >>> shard_name(7)
    'features/00007.safetensors'
    """
    return f"features/{number:05d}.safetensors"


def write_note(folder: Path, manifest: Manifest, shard: Shard) -> None:
    """Say beside a shard that it is whole, and of which run."""
    note = {"run": run_of(manifest), **asdict(shard)}
    write_text((folder / shard.file).with_suffix(".json"), json.dumps(note))


def manifests_told(folder: Path) -> list[Manifest]:
    """What shards say of the index that they are of, where they are whole; each index once."""
    numbers = [path.stem for path in (folder / "features").glob("*.safetensors")]
    told = [read_shard(folder, int(each)) for each in sorted(numbers) if each.isdecimal()]
    manifests = [manifest for manifest, _ in filter(None, told)]
    return list({run_of(manifest): manifest for manifest in manifests}.values())


# What reading JSON raises that is none, or of another form.
_OTHER_JSON = (ValueError, KeyError, TypeError, AttributeError)


def finished_shards(
    folder: Path, manifest: Manifest, numbers: Collection[int] | None = None
) -> dict[int, Shard]:
    """Shards of this index that are whole on disk, by their first row.

    Damaged and unfinished ones are not, nor are those of another run in the same folder.

    Args:
        numbers: the shards that are looked at; all by default.
    """
    wanted = None if numbers is None else {number * manifest.shard_rows for number in numbers}
    noted = noted_shards(folder, manifest)
    return {
        first: shard
        for first, shard in noted.items()
        if (wanted is None or first in wanted) and is_whole(folder, shard, manifest.recipe["dim"])
    }


def noted_shards(folder: Path, manifest: Manifest) -> dict[int, Shard]:
    """Shards of this index that are said to be whole, by their first row; none is read."""
    known = {shard.first: shard for shard in manifest.shards}
    run = run_of(manifest)
    for path in sorted((folder / "features").glob("*.json")):
        shard = _noted(path, run)
        if shard is not None:
            known[shard.first] = shard
    return known


def finished_shard(folder: Path, manifest: Manifest, number: int) -> Shard | None:
    """One shard of this index, if it is whole on disk."""
    shard = _noted((folder / shard_name(number)).with_suffix(".json"), run_of(manifest))
    listed = [each for each in manifest.shards if each.first == number * manifest.shard_rows]
    for known in (shard, *listed):
        if known is not None and is_whole(folder, known, manifest.recipe["dim"]):
            return known
    return None


def _noted(path: Path, run: str) -> Shard | None:
    """What a note says, if it is of this run."""
    try:
        raw = read_json(path)
        if raw.pop("run") != run:
            return None
        shard = shard_from_json(raw)
    except (OSError, StoreError, *_OTHER_JSON):
        return None
    return shard if shard.file == f"features/{path.stem}.safetensors" else None


def is_whole(folder: Path, shard: Shard, dim: int) -> bool:
    """Whether a shard's file is there, has its size and checksum, and holds rows of `dim`."""
    path = folder / shard.file
    return path.is_file() and is_same(path, shard) and not wrong_with(path, shard, dim)


def is_same(path: Path, shard: Shard) -> bool:
    """Whether a file has the size and checksum of a shard."""
    return path.stat().st_size == shard.bytes and has_checksum(path, shard.checksum)


def read_shard(folder: Path, number: int) -> tuple[Manifest, Shard] | None:
    """A shard as its own file tells it, and the index that it is of, without its other shards.

    None where it is missing, damaged, or written before files told it (format version 3).
    """
    name = shard_name(number)
    path = folder / name
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata()["headwater"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if said.pop("sha256") != _digest(said, tensors):
            return None
        manifest = manifest_from_json(said["index"])
        shard = shard_from_json({
            "file": name, "first": said["first"], "rows": len(tensors["position"]),
            "skipped": said["skipped"], "bytes": path.stat().st_size, "checksum": checksum_of(path),
        })  # fmt: skip
    except (OSError, SafetensorError, RecursionError, *_OTHER_JSON):
        return None
    is_its_own = shard.first == number * manifest.shard_rows
    wrong = wrong_with(path, shard, manifest.recipe["dim"])
    return (manifest, shard) if is_its_own and not wrong else None


def has_samples(folder: Path, manifest: Manifest) -> bool:
    """Whether `samples.parquet` is the one that the manifest lists; shards can be read without."""
    path = folder / "samples.parquet"
    return path.exists() and sha256_of(path) == manifest.samples_sha256


def _digest(said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Of a shard's tensors and what is said of them."""
    text = json.dumps(said, sort_keys=True) + digest_of(tensors)
    return hashlib.sha256(text.encode()).hexdigest()


def finish(folder: Path, manifest: Manifest, shards: Sequence[Shard]) -> Manifest:
    """List what is there in the manifest, mark it complete, drop notes and what kills left.

    Raises:
        StoreError: a shard is not what was written a while ago.
    """
    dim = manifest.recipe["dim"]
    changed = [shard.file for shard in shards if not is_whole(folder, shard, dim)]
    if changed:
        raise StoreError(f"{folder / changed[0]} has changed since it was written: {mend(folder)}")
    samples = sha256_of(folder / "samples.parquet")
    complete = replace(manifest, samples_sha256=samples, shards=tuple(shards), complete=True)
    write_manifest(folder, complete)
    remove_leftovers(folder)
    return complete


def remove_leftovers(folder: Path) -> None:
    """Remove notes of a complete index, and what kills left; whoever calls holds the lock.

    Nobody needs either, so that on a read-only disk both stay.
    """
    for note in folder.glob("features/*.json"):
        with suppress(OSError):
            note.unlink()
    for written in (folder, folder / "features", folder / "curvature"):
        remove_parts(written, older_than=0)


def mend(folder: Path) -> str:
    """What to do about a damaged file."""
    rows = rows_at(folder) or rows_at(folder.parent.parent)  # that a further checkpoint is in
    if rows is not None:
        return f"this is a copy of {rows.url}: mend the index that was pushed, and push it again"
    return f"`headwater repair {folder}` mends it"
