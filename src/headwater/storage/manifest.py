"""`index.json`: what an index holds and what it was made from (docs/format.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import xxhash

from headwater.errors import MismatchError, StoreError
from headwater.storage.files import read_json, write_text
from headwater.storage.room import FILE_OF_ROWS

FORMAT = "headwater-index"
VERSION = 3
REMOVED = "removed.json"
# Version 1 had sha256 where shards have a checksum of either kind now; version 2 no checksum of
# index.json itself, and shards that did not say of which run they are.
READABLE = (1, 2, VERSION)

# What these parts of index.json hold, at least.
_KEYS = {
    "recipe": {
        "method", "train_path", "train_delta", "normalise", "parameters", "layers", "timesteps",
        "draws", "clip", "dim", "seed", "projection", "inversion_guidance", "features_version",
    },
    "model": {"source", "dtype", "fingerprint"},
    "data": {"source", "options", "fingerprint", "rows"},
}  # fmt: skip
# Of two runs that make the same rows: where things lie, for which of the methods that share these
# features the index was asked for, and whose curvature it has, which `metric` says.
_MAY_DIFFER = ("source", "options", "clip_source", "method", "fitted")


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
class Removal:
    """Images that an index is asked without from some time on.

    Args:
        when: in ISO 8601.
        why: in somebody's words, or empty.
        rows: of the data set.
    """

    when: str
    why: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """What `index.json` says. `recipe` is everything that a feature row depends on.

    `metric` is a digest of the curvature that rows are in the metric of, once that is fitted.
    """

    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, str]
    shard_rows: int
    checkpoints: int = 0
    metric: str = ""
    complete: bool = False
    samples_sha256: str = ""
    shards: tuple[Shard, ...] = ()
    removed: tuple[Removal, ...] = ()
    format: str = FORMAT
    version: int = VERSION

    @property
    def removed_rows(self) -> frozenset[int]:
        """Rows of the data set that the index is asked without."""
        return frozenset(row for removal in self.removed for row in removal.rows)

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
        raw = read_json(path)
        if raw["format"] != FORMAT:
            raise StoreError(f"{path} is no headwater index (format {raw['format']!r})")
        if raw["version"] not in READABLE:
            raise StoreError(
                f"{path} has format version {raw['version']}, this headwater reads up to "
                f"{VERSION}: use the headwater that wrote it, or build the index in another folder"
            )
        if raw["version"] >= VERSION and raw.pop("checksum") != _checksum(raw):
            raise ValueError("its checksum differs")
        return manifest_from_json(raw)
    except FileNotFoundError:
        raise StoreError(
            f"no index at {folder}: build one with `headwater index MODEL DATA {folder}`"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}: {error}): `headwater repair {folder}` "
            "writes it again"
        ) from None


def manifest_from_json(raw: Mapping[str, Any]) -> Manifest:
    """A manifest as `index.json` has it, without its checksum.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    shards = tuple(map(shard_from_json, raw["shards"]))
    removed = tuple(map(removal_from_json, raw.get("removed", ())))
    later = {name: raw[name] for name in ("checkpoints", "complete", "samples_sha256")}
    given = {**raw, **later, "shards": shards, "removed": removed, "version": VERSION}
    manifest = _typed(Manifest(**given))
    _check(manifest)
    return manifest


def shard_from_json(raw: Mapping[str, Any]) -> Shard:
    """A shard as `index.json` or a note has it, of either format version."""
    entry = {**raw, "skipped": tuple(raw["skipped"])}
    if "checksum" not in entry:
        entry["checksum"] = f"sha256:{entry.pop('sha256')}"
    shard = _typed(Shard(**entry))
    if not FILE_OF_ROWS.fullmatch(shard.file):
        raise ValueError(f"{_short(shard.file)} is no file of rows")
    return shard


def removal_from_json(raw: Mapping[str, Any]) -> Removal:
    """A removal as `index.json` or `removed.json` has it."""
    removal = _typed(Removal(**{**raw, "rows": tuple(raw["rows"])}))
    if not all(map(_is_count, removal.rows)):
        raise TypeError("a removed row is no number")
    return removal


def _typed(made: Any) -> Any:
    """A manifest or shard, if its fields are of their declared types, and no number negative."""
    for name, declared in get_type_hints(type(made)).items():
        value, kind = getattr(made, name), get_origin(declared) or declared
        if not isinstance(value, kind) or (kind is int and not _is_count(value)):
            raise TypeError(f"{name} is {_short(value)}")
    return made


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check(manifest: Manifest) -> None:
    """Refuse a manifest without the keys that reading needs, or whose shards do not add up."""
    for part, keys in _KEYS.items():
        if missing := keys.difference(getattr(manifest, part)):
            raise KeyError(f"{part} lacks {min(missing)}")
    if not _is_count(manifest.data["rows"]) or not manifest.shard_rows:
        raise TypeError("there is no such number of rows")
    dim = manifest.recipe["dim"]
    if not _is_count(dim) or not dim:
        raise TypeError(f"dim is {_short(dim)}")
    for shard in manifest.shards:  # before anybody makes room for them: 2 bytes a number or more
        if 2 * shard.rows * dim > shard.bytes:
            raise ValueError(f"{shard.file} is too small for {shard.rows} rows of {_short(dim)}")
    if any(row >= manifest.data["rows"] for row in manifest.removed_rows):
        raise ValueError("it has no such row as was removed")
    ends = accumulate((s.rows + len(s.skipped) for s in manifest.shards), initial=0)
    firsts = [shard.first for shard in manifest.shards]
    if manifest.complete and [*ends] != [*firsts, manifest.data["rows"]]:
        raise ValueError(f"its shards do not add up to {manifest.data['rows']} rows")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `index.json`, atomically, with a checksum of all that it says.

    What is removed is written beside it too, for `headwater repair`: no shard could tell it.
    """
    facts = _normal(asdict(manifest))
    if manifest.removed or (folder / REMOVED).exists():
        write_text(folder / REMOVED, json.dumps(facts["removed"]))
    said = {**facts, "checksum": _checksum(facts)}
    write_text(folder / "index.json", json.dumps(said, indent=1, ensure_ascii=False))


def read_removed(folder: Path) -> tuple[Removal, ...] | None:
    """What was removed, where `index.json` cannot say it; None where it is damaged."""
    try:
        return tuple(map(removal_from_json, read_json(folder / REMOVED)))
    except FileNotFoundError:
        return ()
    except (StoreError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _checksum(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return f"xxh3:{xxhash.xxh3_128_hexdigest(text.encode('utf-8', 'surrogatepass'))}"


def run_of(manifest: Manifest) -> str:
    """A digest of all that rows and their shards depend on, which a shard's file names.

    32 hex digits; runs that may go on with each other's work (`require_same`) have the same.
    """
    compared = {part: _compared(getattr(manifest, part)) for part in ("recipe", "model", "data")}
    others = {"shard_rows": manifest.shard_rows, "metric": manifest.metric}
    facts = json.dumps({**compared, **others}, sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def rows_digest(manifest: Manifest) -> str:
    """The sha256, in hex, of the checksums of all rows."""
    checksums = "\n".join(shard.checksum for shard in manifest.shards)
    return hashlib.sha256(checksums.encode()).hexdigest()


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
    other = differing(old, new, ("recipe", "model", "data"))
    if other is not None:
        part, key, before, now = other
        new_rows = f" with --reuse {folder}" if part == "data" else ""
        raise MismatchError(
            f"{folder} was begun with {part} {key} = {before}, this run has {now}: use another "
            f"folder{new_rows}, or --overwrite"
        )


def differing(
    old: Manifest, new: Manifest, parts: Sequence[str]
) -> tuple[str, str, str, str] | None:
    """Where two first differ in these parts: the part, the key, and what stands there, in short.

    Places, and the method among those that share rows, may differ.
    """
    for part in parts:
        before, now = _compared(getattr(old, part)), _compared(getattr(new, part))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                return part, key, _short(before.get(key)), _short(now.get(key))
    return None


def _compared(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _normal(part).items() if key not in _MAY_DIFFER}


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
