"""The index on disk: shards of feature rows, a manifest, checksums. Written so that it can resume.

A folder with `index.json` (the manifest), `samples.parquet` (what each row is of) and
`features/NNNNN.safetensors`. A shard covers a fixed range of the data set, so what a shard holds
depends on neither batch size nor worker. Everything is written under a temporary name, synced and
renamed: what has its final name is whole. docs/format.md is the specification.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headwater.errors import StoreError
from headwater.storage.arrays import open_rows, row_blocks
from headwater.storage.files import (
    checksum_of,
    has_checksum,
    renamed,
    sha256_of,
    write_text,
)
from headwater.storage.manifest import Manifest, Shard, shard_from_json, write_manifest

# --- shards -------------------------------------------------------------------------------------


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
    """

    features: Float[Tensor, "r k"]
    positions: Sequence[int]
    skipped: Sequence[str] = ()
    residuals: Float[Tensor, "r p"] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """As they are stored: float16 rows with one float32 scale each, their root mean square.

        So no method's magnitudes leave float16's range.
        """
        dim = self.features.shape[1]
        # In float64: the square of a large or small float32 is infinite or zero.
        norm = torch.linalg.vector_norm(self.features, dim=1, dtype=torch.float64)
        scale = (norm / dim**0.5).clamp_min(torch.finfo(torch.float32).tiny).float()  # [r]
        tensors = {
            "features": (self.features / scale[:, None]).half().cpu().contiguous(),
            "scale": scale.cpu(),
            "position": torch.tensor(list(self.positions), dtype=torch.int64),
        }
        if self.residuals is not None:
            tensors["residual"] = self.residuals.float().contiguous()
        return tensors


def write_shard(folder: Path, number: int, first: int, rows: ShardRows) -> Shard:
    """Write one shard and the note (`.json` beside it) that says it is whole.

    Args:
        folder: of the index.
        number: of the shard, which its file is named after.
        first: the first data set row that it covers.
        rows: what it holds.
    """
    name = f"features/{number:05d}.safetensors"
    path = folder / name
    with renamed(path) as part:
        save_file(rows.tensors(), part)
    size, checksum = path.stat().st_size, checksum_of(path)
    shard = Shard(name, first, len(rows.features), tuple(rows.skipped), size, checksum)
    write_text(path.with_suffix(".json"), json.dumps(asdict(shard)))
    return shard


def finished_shards(folder: Path, manifest: Manifest) -> dict[int, Shard]:
    """Shards that are whole on disk, by their first row; damaged and unfinished ones are not."""
    known = {shard.first: shard for shard in manifest.shards}
    for note in sorted((folder / "features").glob("*.json")):
        try:
            shard = shard_from_json(json.loads(note.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError):
            continue
        known[shard.first] = shard
    return {first: shard for first, shard in known.items() if _is_whole(folder, shard)}


def _is_whole(folder: Path, shard: Shard) -> bool:
    path = folder / shard.file
    return path.exists() and _is_same(path, shard)


def _is_same(path: Path, shard: Shard) -> bool:
    return path.stat().st_size == shard.bytes and has_checksum(path, shard.checksum)


def has_samples(folder: Path, manifest: Manifest) -> bool:
    """Whether `samples.parquet` is the one that the manifest lists; shards can be read without."""
    path = folder / "samples.parquet"
    return path.exists() and sha256_of(path) == manifest.samples_sha256


def finish(folder: Path, manifest: Manifest, shards: Sequence[Shard]) -> Manifest:
    """List what is there in the manifest, mark it complete, drop notes and what kills left."""
    samples = sha256_of(folder / "samples.parquet")
    complete = replace(manifest, samples_sha256=samples, shards=tuple(shards), complete=True)
    write_manifest(folder, complete)
    for pattern in ("features/*.json", "features/*.part", "*.part"):
        for leftover in folder.glob(pattern):
            leftover.unlink()
    return complete


_MEND = "run the same `headwater index` command again to rebuild it"


def read_blocks(folder: Path, manifest: Manifest) -> Iterator[Float[Tensor, "r k"]]:
    """Feature rows, some at a time, as float32. Each file's checksum is verified first.

    Raises:
        StoreError: a shard is missing, truncated or changed.
    """
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.exists():
            raise StoreError(f"{path} is missing: {_MEND}")
        if not _is_same(path, shard):
            raise StoreError(f"{path} is damaged (its checksum differs from index.json): {_MEND}")
        if path.suffix == ".npy":
            yield from row_blocks(open_rows(path, manifest.recipe["dim"]))
            continue
        try:
            with safe_open(path, "pt") as file:
                yield file.get_tensor("features").float() * file.get_tensor("scale")[:, None]
        except (SafetensorError, KeyError) as error:
            raise StoreError(f"{path} cannot be read ({error}): {_MEND}") from None


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
            raise StoreError(f"{folder / shard.file} cannot be read ({error}): {_MEND}") from None
    return torch.cat(parts) if parts else None
