"""Rows of another index that are taken over: of images that have not changed since it was built.

Where they are in the metric of a curvature, that is taken over too, and other rows are computed in
the same metric.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from headwater.data.training_set import Sample, TrainingSet
from headwater.errors import HeadwaterWarning, MismatchError, StoreError
from headwater.index.building.notes import notes_on_versions
from headwater.index.curvature.fit import RESULTS, Fit, fit_of
from headwater.index.curvature.origin import FITTED, Origin, origin_of
from headwater.index.index import Index
from headwater.index.samples import samples_of, tables_of
from headwater.storage.blocks import StoredRows
from headwater.storage.claims import claimed
from headwater.storage.files import renamed
from headwater.storage.manifest import Manifest, differing

# What tells an image from another: its id, its captions, and what stands for its picture.
_Key = tuple[str, tuple[str, ...], str]


@dataclass(frozen=True)
class Kept:
    """Rows that another index has already.

    Attributes:
        index: that one.
        rows: row of the data set -> row of that index.
    """

    index: Index
    rows: Mapping[int, int]

    def read(self, rows: Iterable[int]) -> tuple[list[int], StoredRows]:
        """Those of some rows of the data set that are there, and what is stored of them."""
        there = [row for row in rows if row in self.rows]
        return there, self.index.some_rows([self.rows[row] for row in there])


def with_origin_of(kept: Kept, manifest: Manifest) -> Manifest:
    """The manifest of an index that takes rows over says by which versions those were made.

    And to which images their curvature was fitted, if they have one and it was to others.
    """
    old = kept.index.manifest
    made = ", ".join(f"{name} {said}" for name, said in old.versions.items())
    manifest = replace(manifest, versions={**manifest.versions, "rows taken over": made})
    return _with_fitted(kept, manifest) if kept.index.recipe.curvature else manifest


def _with_fitted(kept: Kept, manifest: Manifest) -> Manifest:
    old = kept.index.manifest
    own = Origin(old.data["fingerprint"], old.data["rows"], left=old.rows, gone=0)
    before = origin_of(old) or own
    if before.fingerprint == manifest.data["fingerprint"]:
        return manifest
    left = max(0, before.left - (old.rows - len(kept.rows)))
    gone = before.left + before.gone - left
    fitted = asdict(replace(before, left=left, gone=gone))
    return replace(manifest, data={**manifest.data, FITTED: fitted})


def require_its_metric(kept: Kept, fit: Fit, out: Path) -> None:
    """Refuse rows in another metric than those that an index was begun with.

    Raises:
        MismatchError: so they are.
    """
    if fit.key != _fit_of(kept.index).key or fit.metric not in ("", _metric_of(kept.index)):
        raise MismatchError(
            f"{out} was begun with another curvature than that of {kept.index.path}, whose rows "
            "are in its metric: leave out --reuse, or --overwrite"
        )


def take_curvature_over(kept: Kept, fit: Fit) -> None:
    """Copy what rows of another index are in the metric of, unless it is there.

    Raises:
        StoreError: it is missing or damaged there.
    """
    if fit.whole and fit.digest() == _metric_of(kept.index):
        return
    other = _fit_of(kept.index)
    if not other.is_of_rows:
        raise StoreError(
            f"{other.folder} is missing, damaged, or not what the rows were made with: "
            f"`headwater repair {kept.index.path}` mends it"
        )
    for name in RESULTS.values():
        with claimed(fit.folder.parent, name, wait=True), renamed(fit.file(name)) as part:
            shutil.copyfile(other.file(name), part)


def _fit_of(index: Index) -> Fit:
    return fit_of(index.path, index.manifest, index.recipe)


def _metric_of(index: Index) -> str:
    """That of its rows; of old indexes the curvature alone tells it."""
    return index.manifest.metric or _fit_of(index).digest()


def speak_of_kept(kept: Kept, manifest: Manifest, note: Callable[[str], None]) -> None:
    """Say what is taken over, and warn where the curvature is of too few or of other images."""
    there, total = len(kept.rows), manifest.data["rows"]
    note(f"{there:,} of {total:,} rows are taken over from {kept.index.path}")
    origin = origin_of(manifest)
    if origin is not None:
        note(f"the curvature is taken over too: {origin.line(total)}")
        if origin.warning(total):
            warnings.warn(origin.warning(total), HeadwaterWarning, stacklevel=2)
    for line in notes_on_versions(kept.index.manifest, manifest):
        note(line)


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
    known = {key: row for row, key in enumerate(_keys_of(index))}
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
