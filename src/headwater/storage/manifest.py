"""`index.json`: what an index holds and what it was made from (docs/format.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from headwater.errors import MismatchError, StoreError
from headwater.storage.files import write_text

FORMAT = "headwater-index"
VERSION = 2
READABLE = (1, VERSION)  # version 1 had sha256 where shards have a checksum of either kind now

# What these parts of index.json hold, at least.
_KEYS = {
    "recipe": {
        "method", "train_path", "train_delta", "normalise", "parameters", "layers", "timesteps",
        "draws", "clip", "dim", "seed", "projection", "inversion_guidance", "features_version",
    },
    "model": {"source", "dtype", "fingerprint"},
    "data": {"source", "options", "fingerprint", "rows"},
}  # fmt: skip
# Of two runs that make the same rows: where things lie, and for which of the methods that share
# these features the index was asked for.
_MAY_DIFFER = ("source", "options", "clip_source", "method")


@dataclass(frozen=True)
class Shard:
    """One file of feature rows.

    Args:
        file: path from the index folder.
        first: its first row in the data set.
        rows: how many it holds.
        skipped: ids of images in its range that were left out.
        bytes: its size.
        checksum: `xxh3:` and hex; `sha256:` and hex where version 1 wrote it.
    """

    file: str
    first: int
    rows: int
    skipped: tuple[str, ...]
    bytes: int
    checksum: str


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
        StoreError: no index there, not JSON, or of a format version that this cannot read.
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
        if raw["version"] not in READABLE:
            raise StoreError(
                f"{path} has format version {raw['version']}, this headwater reads up to "
                f"{VERSION}: use the headwater that wrote it, or build the index in another folder"
            )
        shards = tuple(map(shard_from_json, raw.pop("shards")))
        later = {name: raw[name] for name in ("checkpoints", "complete", "samples_sha256")}
        now = {**raw, **later, "shards": shards, "version": VERSION}
        manifest = _typed(Manifest(**now))
        _check(manifest)
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}: {error}): build it again with --overwrite"
        ) from None


def shard_from_json(raw: Mapping[str, Any]) -> Shard:
    """A shard as `index.json` or a note has it, of either format version."""
    entry = {**raw, "skipped": tuple(raw["skipped"])}
    if "checksum" not in entry:
        entry["checksum"] = f"sha256:{entry.pop('sha256')}"
    return _typed(Shard(**entry))


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


def has_old_checksums(manifest: Manifest) -> bool:
    """Whether format version 1 wrote the index."""
    return any(shard.checksum.startswith("sha256:") for shard in manifest.shards)


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
        checkpoint
        for checkpoint in checkpoint_folders(folder, manifest)
        if not ((checkpoint / "index.json").exists() and read_manifest(checkpoint).complete)
    ]
