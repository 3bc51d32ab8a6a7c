"""The index on disk: shards of feature rows, a manifest, checksums. Written so that it can resume.

A folder with `index.json` (the manifest), `samples.parquet` (what each row is of) and
`features/NNNNN.safetensors`. A shard covers a fixed range of the data set, so what a shard holds
depends on neither batch size nor worker. Everything is written under a temporary name, synced and
renamed: what has its final name is whole. docs/format.md is the specification.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headwater.errors import MismatchError, StoreError
from headwater.files import renamed, sha256_of, write_text

FORMAT = "headwater-index"
VERSION = 1

# What these parts of index.json hold, at least.
_KEYS = {
    "recipe": {
        "method", "train_path", "train_delta", "normalise", "parameters", "layers", "timesteps",
        "draws", "clip", "dim", "seed", "projection", "inversion_guidance", "features_version",
    },
    "model": {"source", "dtype", "fingerprint"},
    "data": {"source", "options", "fingerprint", "rows"},
}  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """One file of feature rows. `first`: its first row in the data set; `skipped`: ids left out."""

    file: str
    first: int
    rows: int
    skipped: tuple[str, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `index.json` says. `recipe` is everything that a feature row depends on."""

    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, str]
    shard_rows: int
    checkpoints: int = 0
    complete: bool = False
    samples_sha256: str = ""
    shards: tuple[Shard, ...] = ()
    format: str = FORMAT
    version: int = VERSION

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def skipped(self) -> list[str]:
        return [id for shard in self.shards for id in shard.skipped]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index, whole or half-built.

    Raises:
        StoreError: no index there, not JSON, or of another format version.
    """
    path = folder / "index.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(
            f"no index at {folder}: build one with `headwater index MODEL DATA {folder}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {path}: {error}") from None
    try:
        raw = json.loads(text)
        if raw["format"] != FORMAT:
            raise StoreError(f"{path} is no headwater index (format {raw['format']!r})")
        if raw["version"] != VERSION:
            raise StoreError(
                f"{path} has format version {raw['version']}, this headwater reads {VERSION}: "
                "build the index again with `--overwrite`, or use the version that wrote it"
            )
        shards = tuple(map(_shard, raw.pop("shards")))
        later = {name: raw[name] for name in ("checkpoints", "complete", "samples_sha256")}
        manifest = _typed(Manifest(**{**raw, **later, "shards": shards}))
        _check(manifest)
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}: {error}): build it again with --overwrite"
        ) from None


def _shard(raw: Any) -> Shard:
    return _typed(Shard(**{**raw, "skipped": tuple(raw["skipped"])}))


def _typed(made: Any) -> Any:
    """A manifest or shard, if its fields are of their declared types."""
    for name, declared in get_type_hints(type(made)).items():
        if not isinstance(getattr(made, name), get_origin(declared) or declared):
            raise TypeError(f"{name} is {getattr(made, name)!r}")
    return made


def _check(manifest: Manifest) -> None:
    """Refuse a manifest without the keys that reading needs, or whose shards do not add up."""
    for part, keys in _KEYS.items():
        if missing := keys.difference(getattr(manifest, part)):
            raise KeyError(f"{part} lacks {min(missing)}")
    ends = accumulate((s.rows + len(s.skipped) for s in manifest.shards), initial=0)
    firsts = [shard.first for shard in manifest.shards]
    if manifest.complete and [*ends] != [*firsts, manifest.data["rows"]]:
        raise ValueError(f"its shards do not add up to {manifest.data['rows']} rows")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `index.json`, atomically."""
    write_text(folder / "index.json", json.dumps(asdict(manifest), indent=1, ensure_ascii=False))


# Of two runs that make the same rows: where things lie, and for which of the methods that share
# these features the index was asked for.
_MAY_DIFFER = ("source", "options", "clip_source", "lora_source", "method")


def require_same(folder: Path, old: Manifest, new: Manifest) -> None:
    """Refuse to go on with an index that was begun otherwise.

    Raises:
        MismatchError: names the first difference in recipe, model or data set.
    """
    if old.checkpoints != new.checkpoints:
        raise MismatchError(
            f"{folder} was begun with {old.checkpoints} more checkpoints, this run has "
            f"{new.checkpoints}: use another folder, or --overwrite"
        )
    for part in ("recipe", "model", "data"):
        before, now = _normal(getattr(old, part)), _normal(getattr(new, part))
        for key in sorted(before.keys() | now.keys()):
            if key not in _MAY_DIFFER and before.get(key) != now.get(key):
                raise MismatchError(
                    f"{folder} was begun with {part} {key} = {_short(before.get(key))}, this run "
                    f"has {_short(now.get(key))}: use another folder, or --overwrite"
                )


def _normal(part: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(part))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- further models ------------------------------------------------------------------------------


def checkpoint_folders(folder: Path, manifest: Manifest) -> list[Path]:
    """Where the index of each further model is, or will be."""
    return [folder / "checkpoints" / str(i) for i in range(manifest.checkpoints)]


def unfinished_checkpoints(folder: Path, manifest: Manifest) -> list[Path]:
    """Those of them that were never begun, or not finished."""
    return [
        each
        for each in checkpoint_folders(folder, manifest)
        if not ((each / "index.json").exists() and read_manifest(each).complete)
    ]


# --- shards -------------------------------------------------------------------------------------


def shard_ranges(rows: int, shard_rows: int) -> list[range]:
    """The data set rows that each shard covers."""
    return [range(i, min(i + shard_rows, rows)) for i in range(0, rows, shard_rows)]


def default_shard_rows(rows: int) -> int:
    """About 32 shards, of 64 to 4,096 rows: small sets resume finely, large ones scan fast."""
    return max(64, min(4096, -(-rows // 32)))


def write_shard(
    folder: Path,
    number: int,
    first: int,
    features: Float[Tensor, "r k"],
    positions: Sequence[int],
    skipped: Sequence[str],
    residuals: Float[Tensor, "r p"] | None = None,
) -> Shard:
    """Write one shard and the note (`.json` beside it) that says it is whole.

    Rows are float16 with one float32 scale each, their root mean square, so that no method's
    magnitudes leave float16's range.
    """
    name = f"features/{number:05d}.safetensors"
    # In float64: the square of a large or small float32 is infinite or zero.
    norm = torch.linalg.vector_norm(features, dim=1, dtype=torch.float64)
    scale = (norm / features.shape[1] ** 0.5).clamp_min(torch.finfo(torch.float32).tiny).float()
    tensors = {
        "features": (features / scale[:, None]).half().cpu().contiguous(),
        "scale": scale.cpu(),
        "position": torch.tensor(list(positions), dtype=torch.int64),
    }
    if residuals is not None:
        tensors["residual"] = residuals.float().contiguous()
    path = folder / name
    with renamed(path) as part:
        save_file(tensors, part)
    shard = Shard(name, first, len(features), tuple(skipped), path.stat().st_size, sha256_of(path))
    write_text(path.with_suffix(".json"), json.dumps(asdict(shard)))
    return shard


def finished_shards(folder: Path, manifest: Manifest) -> dict[int, Shard]:
    """Shards that are whole on disk, by their first row; damaged and unfinished ones are not."""
    known = {shard.first: shard for shard in manifest.shards}
    for note in sorted((folder / "features").glob("*.json")):
        try:
            shard = _shard(json.loads(note.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError):
            continue
        known[shard.first] = shard
    return {first: shard for first, shard in known.items() if _is_whole(folder, shard)}


def _is_whole(folder: Path, shard: Shard) -> bool:
    path = folder / shard.file
    return path.exists() and path.stat().st_size == shard.bytes and sha256_of(path) == shard.sha256


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
    """Feature rows, shard by shard, as float32. Each file's checksum is verified first.

    Raises:
        StoreError: a shard is missing, truncated or changed.
    """
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.exists():
            raise StoreError(f"{path} is missing: {_MEND}")
        if path.stat().st_size != shard.bytes or sha256_of(path) != shard.sha256:
            raise StoreError(f"{path} is damaged (its checksum differs from index.json): {_MEND}")
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
        try:
            with safe_open(folder / shard.file, "pt") as file:
                if name in file.keys() and shard.rows:
                    parts.append(file.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{folder / shard.file} cannot be read ({error}): {_MEND}") from None
    return torch.cat(parts) if parts else None
