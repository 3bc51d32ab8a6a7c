"""What of an index is missing or damaged: every file read once, against its checksum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from headwater.errors import StoreError
from headwater.index.curvature.fit import fit_of
from headwater.index.index import recipe_of
from headwater.index.samples import read_samples, tables_of
from headwater.storage.files import read_tensors
from headwater.storage.manifest import Manifest, checkpoint_folders, read_manifest
from headwater.storage.room import CACHES
from headwater.storage.shard_files import DamagedThereError, shard_files
from headwater.storage.shard_tensors import wrong_with
from headwater.storage.shards import (
    finished_shards,
    has_samples,
    is_same,
    manifests_told,
    read_shard,
    shard_count,
    shard_name,
)

MODEL, IMAGES, SHARDS, NOTHING = "the model and the images", "the images", "the shards", "nothing"
ORIGIN = "the index that it was taken over from"
# A push takes a file for what it was, where it has its size still.
_WRONG_THERE = "is missing or damaged at its URL: remove it there before the next push"

Tick = Callable[[str], object]  # is told each file before it is read


class Finding(NamedTuple):
    """A file that is not as it should be.

    Attributes:
        file: path from the folder of the index.
        what: is wrong with it.
        needs: what it can be made of again.
    """

    file: str
    what: str
    needs: str


def verify(folder: Path, tick: Tick = lambda file: None) -> list[Finding]:
    """What is missing or damaged in the folder of an index, in the order in which it is mended.

    Nothing is changed. Caches count too, which nobody needs; of features nothing is computed.

    Raises:
        StoreError: there is nothing of an index in the folder; or, the folder being a copy of an
            index at a URL, that cannot be reached, or has changed.
    """
    if not (folder / "index.json").exists() and not (folder / "features").exists():
        raise StoreError(
            f"no index at {folder}: build one with `headwater index MODEL DATA {folder}`"
        )
    return list(_findings(folder, "", tick))


def _findings(folder: Path, place: str, tick: Tick) -> Iterator[Finding]:
    """Of an index, or of that of a further checkpoint at a place in it."""
    tick(f"{place}index.json")
    try:
        manifest = read_manifest(folder)
    except StoreError:
        there = (folder / "index.json").exists()
        yield Finding(f"{place}index.json", "is damaged" if there else "is missing", SHARDS)
        yield from _by_what_shards_say(folder, place, tick)
        yield from _of_caches(folder, place, tick)
        return
    yield from _of_rows(folder, manifest, place, tick)
    yield from _of_caches(folder, place, tick)
    for number, checkpoint in enumerate(checkpoint_folders(folder, manifest)):
        yield from _findings(checkpoint, f"{place}checkpoints/{number}/", tick)


def _of_rows(folder: Path, manifest: Manifest, place: str, tick: Tick) -> Iterator[Finding]:
    if manifest.complete:
        yield from _of_shards(folder, manifest, place, tick)
    else:
        tick(f"{place}features")
        done = finished_shards(folder, manifest)
        for number in range(shard_count(manifest.data["rows"], manifest.shard_rows)):
            if number * manifest.shard_rows not in done:
                path = folder / shard_name(number)
                yield Finding(f"{place}{shard_name(number)}", _wrong(path), MODEL)
    if manifest.recipe.get("curvature"):
        fit = fit_of(folder, manifest, recipe_of(folder, manifest))
        needs = ORIGIN if fit.is_taken_over else MODEL
        for name in ("bases", "moments"):
            tick(f"{place}curvature/{name}.safetensors")
            if fit.read(name) is None:
                path = fit.folder / f"{name}.safetensors"
                yield Finding(f"{place}curvature/{path.name}", _wrong(path), needs)
        if fit.whole and fit.metric not in ("", fit.digest()):
            yield Finding(f"{place}curvature", "is not what the rows were made with", needs)
    tick(f"{place}samples.parquet")
    wrong = _wrong_samples(folder, manifest)
    if wrong:
        yield Finding(f"{place}samples.parquet", wrong, IMAGES)
    if not manifest.complete:
        yield Finding(f"{place}index.json", "is unfinished", SHARDS)


def _wrong_samples(folder: Path, manifest: Manifest) -> str:
    """What of the table of samples is wrong, whatever its checksum says; "" where nothing is."""
    if not has_samples(folder, manifest):
        return _wrong(folder / "samples.parquet")
    try:
        if manifest.complete:
            for _ in tables_of(read_samples(folder, manifest, frozenset()).samples):
                pass  # each is looked at when it is read, and no row becomes an object
    except StoreError:
        return "is no table of the rows"
    return ""


def _of_shards(folder: Path, manifest: Manifest, place: str, tick: Tick) -> Iterator[Finding]:
    """Of shards that are listed; at a URL a pass ends at a damaged one, and another goes on."""
    left = list(manifest.shards)
    while left:
        try:
            for path in shard_files(folder, tuple(left)):
                shard = left.pop(0)
                tick(f"{place}{shard.file}")
                if not (path.is_file() and is_same(path, shard)):
                    yield Finding(f"{place}{shard.file}", _wrong(path), MODEL)
                elif wrong := wrong_with(path, shard, manifest.recipe["dim"]):
                    yield Finding(f"{place}{shard.file}", f"is no shard of it ({wrong})", MODEL)
        except DamagedThereError:
            shard = left.pop(0)
            tick(f"{place}{shard.file}")
            yield Finding(f"{place}{shard.file}", _WRONG_THERE, MODEL)


def _by_what_shards_say(folder: Path, place: str, tick: Tick) -> Iterator[Finding]:
    """Of rows, where nothing else says what there should be."""
    told = manifests_told(folder)
    if len(told) != 1:
        return
    for number in range(shard_count(told[0].data["rows"], told[0].shard_rows)):
        tick(f"{place}{shard_name(number)}")
        if read_shard(folder, number) is None:
            path = folder / shard_name(number)
            yield Finding(f"{place}{shard_name(number)}", _wrong(path), MODEL)
    if not (folder / "samples.parquet").is_file():
        yield Finding(f"{place}samples.parquet", "is missing", IMAGES)


def _of_caches(folder: Path, place: str, tick: Tick) -> Iterator[Finding]:
    for path in damaged_caches(folder, lambda path: tick(f"{place}{path}")):
        yield Finding(f"{place}{path.relative_to(folder)}", "is damaged", NOTHING)


def damaged_caches(folder: Path, tick: Callable[[Path], object] = lambda path: None) -> list[Path]:
    """Files of caches that cannot be read."""
    damaged = []
    for name in CACHES:
        for path in sorted((folder / name).glob("*.safetensors")):
            tick(path.relative_to(folder))
            if read_tensors(path) is None:
                damaged.append(path)
    return damaged


def _wrong(path: Path) -> str:
    return "is damaged" if path.exists() else "is missing"
