"""Rows of another index that are taken over: of images that have not changed since it was built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from headwater.data.training_set import Sample, TrainingSet
from headwater.errors import MismatchError
from headwater.index.index import Index
from headwater.index.samples import samples_of, tables_of
from headwater.storage.blocks import StoredRows, read_rows
from headwater.storage.manifest import Manifest, differing, read_manifest

# What tells an image from another: its id, its captions, and what stands for its picture.
_Key = tuple[str, tuple[str, ...], str]


@dataclass(frozen=True)
class Kept:
    """Rows that another index has already.

    Attributes:
        index: that one.
        rows: row of the data set -> row of that index on disk.
    """

    index: Index
    rows: Mapping[int, int]

    def read(self, rows: Iterable[int]) -> tuple[list[int], StoredRows]:
        """Those of some rows of the data set that are there, and what is stored of them."""
        there = [row for row in rows if row in self.rows]
        manifest = self.index.manifest
        return there, read_rows(self.index.path, manifest, [self.rows[row] for row in there])


def with_origin_of_rows(manifest: Manifest, folder: str | Path) -> Manifest:
    """The manifest of an index that takes rows over says by which versions those were made.

    Raises:
        StoreError: there is no index in the folder.
    """
    made = ", ".join(
        f"{name} {said}" for name, said in read_manifest(Path(folder)).versions.items()
    )
    return replace(manifest, versions={**manifest.versions, "rows taken over": made})


def kept_rows(folder: str | Path, manifest: Manifest, data: TrainingSet) -> Kept:
    """What an index has of the images of another, which is begun.

    An image is the same if its id, its captions, and what stands for its picture in the data's
    fingerprint (`TrainingSet.contents`) are.

    Raises:
        MismatchError: its rows are of another recipe or model, or it does not say what stands for
            pictures, as before 2026-11-29 none did.
        StoreError: there is none, or it is unfinished or damaged.
    """
    index = Index.open(folder)
    other = differing(index.manifest, manifest, ("recipe", "model"))
    if other is not None:
        part, key, before, now = other
        raise MismatchError(
            f"{folder} was built with {part} {key} = {before}, this index has {now}: its rows are "
            "not taken over, leave out --reuse"
        )
    known = dict(zip(_keys_of(index), _rows_on_disk(index), strict=True))
    keys = map(_key, data.samples, data.contents or [""] * len(data))
    return Kept(index, {row: known[key] for row, key in enumerate(keys) if key in known})


def _keys_of(index: Index) -> Iterable[_Key]:
    for table in tables_of(index.samples):
        if "content" not in table.column_names:
            raise MismatchError(
                f"{index.path} does not say which of its images have changed, since it was built "
                "by an earlier headwater: leave out --reuse"
            )
        yield from map(_key, samples_of(table), table["content"].to_pylist())


def _key(sample: Sample, content: int | str) -> _Key:
    return sample.id, sample.all_captions, str(content)


def _rows_on_disk(index: Index) -> Iterable[int]:
    """Of each row of an index where it stands in the shards, which have removed ones too."""
    inside = index.inside
    return range(len(index)) if inside is None else inside.nonzero()[:, 0].tolist()
