"""An index made whole again from what is there; what is lost is computed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from headwater.data.training_set import TrainingSet
from headwater.errors import MismatchError, StoreError
from headwater.index.building.one_model import Job, build_planned, complete
from headwater.index.building.workers import BuildOptions
from headwater.index.curvature.fit import fit_of
from headwater.index.index import Handed, Index
from headwater.index.machines import load_denoiser
from headwater.index.samples import RowSamples
from headwater.models.clip import Clip
from headwater.runtime.batch_size import BatchSize
from headwater.storage.claims import alone
from headwater.storage.files import changing, remove_parts
from headwater.storage.manifest import (
    REMOVED,
    Manifest,
    checkpoint_folders,
    read_manifest,
    read_removed,
    run_of,
    write_manifest,
)
from headwater.storage.shards import (
    finished_shards,
    manifests_told,
    noted_shards,
    read_shard,
    shard_count,
    write_note,
)
from headwater.upkeep.verify import damaged_caches, verify

Note = Callable[[str], None]


def repair(folder: str | Path, device: str | None = None, note: Note = lambda line: None) -> None:
    """Mend what `verify` finds.

    `index.json` is written again from what the shards say of themselves, damaged shards and a
    damaged curvature are computed again from the model and the images, `samples.parquet` is made of
    the images, and damaged files of caches are removed. Rows that are whole are not touched.

    Args:
        device: where the model is loaded, if it is needed.
        note: called with a line of text on each thing that is done.

    Raises:
        StoreError: nothing says what the index was, or somebody writes it.
        ModelError, DatasetError, MismatchError: what is needed is not there any more, or has
            changed.

    Example:
        repair("my-index", note=print)
    """
    folder = Path(folder)
    verify(folder)  # refuses what is no index, before a lock is left there
    with alone(folder):
        manifest = _mend_files(folder, note)
        left = verify(folder)
        completed = left and _complete(folder, manifest, device, note)
        remove_parts(folder, older_than=0)  # of commands that were killed: nobody writes here
    if left and not completed:
        _compute(folder, manifest, device, note)
    for number, checkpoint in enumerate(checkpoint_folders(folder, manifest)):
        if not checkpoint.exists():
            raise StoreError(
                f"checkpoint {number + 1} of {folder} was never begun: run its `headwater index` "
                "command again"
            )
        repair(checkpoint, device, note)


def _mend_files(folder: Path, note: Note) -> Manifest:
    """Drop damaged caches, write `index.json` again if need be, and list what is whole."""
    for path in damaged_caches(folder):
        with changing(path):
            path.unlink()
        note(f"removed {path}, which is computed again when it is needed")
    manifest = _manifest(folder, note)
    known = finished_shards(folder, manifest)
    for number in range(shard_count(manifest.data["rows"], manifest.shard_rows)):
        told = read_shard(folder, number) if number * manifest.shard_rows not in known else None
        if told is not None and run_of(told[0]) == run_of(manifest):
            write_note(folder, manifest, told[1])
            note(f"listed {told[1].file}, which is whole")
    return manifest


def _manifest(folder: Path, note: Note) -> Manifest:
    """What stands in `index.json`, or what the shards say that stood there."""
    try:
        return read_manifest(folder)
    except StoreError as error:
        told = manifests_told(folder)
        if len(told) != 1:
            why = "say nothing of it" if not told else f"are of {len(told)} different indexes"
            raise StoreError(
                f"{folder / 'index.json'} cannot be written again, the shards {why}: run the "
                "`headwater index` command again with --overwrite"
            ) from error
    removed = read_removed(folder)
    if removed is None:
        raise StoreError(
            f"{folder / 'index.json'} cannot be written again, {REMOVED} is damaged too: put that "
            "back from a copy, or remove it and give the images to `headwater remove` once more"
        )
    write_manifest(folder, replace(told[0], removed=removed))
    note(f"wrote {folder / 'index.json'} again, from what the shards say")
    return read_manifest(folder)


def _complete(folder: Path, manifest: Manifest, device: str | None, note: Note) -> bool:
    """Write the table of samples, if all rows are there; whether they are."""
    index = _begun(folder, manifest, device)
    data, known = _images(index), finished_shards(folder, manifest)
    fit = fit_of(folder, manifest, index.recipe) if index.recipe.curvature else None
    count = shard_count(manifest.data["rows"], manifest.shard_rows)
    if len(known) == count and (fit is None or fit.digest() == fit.metric):
        complete(folder, manifest, [known[first] for first in sorted(known)], data)
        note(f"wrote {folder / 'samples.parquet'} and index.json from {data.source}")
        return True
    return False


def _begun(folder: Path, manifest: Manifest, device: str | None) -> Index:
    """An index that is not whole."""
    return Index(folder, manifest, RowSamples(), handed=Handed(device=device))


def _compute(folder: Path, manifest: Manifest, device: str | None, note: Note) -> None:
    """The rows that are lost, and the curvature if that is."""
    index = _begun(folder, manifest, device)
    data, known = _images(index), noted_shards(folder, manifest)
    denoiser, clip_source = load_denoiser(index), manifest.model.get("clip_source")
    clip = None if clip_source is None else Clip(clip_source, denoiser.device)
    note(f"computing what is lost, by {manifest.model['source']}, of {data.source}")
    how = BuildOptions(skip_bad=any(shard.skipped for shard in known.values()))
    batch = BatchSize(None, note, denoiser.device)
    with ExitStack() as present:
        job = Job(data, how, batch, note, clip, present)
        build_planned(job, denoiser, index.recipe, folder, manifest.checkpoints)


def _images(index: Index) -> TrainingSet:
    """Those that the index is of.

    Raises:
        DatasetError, MismatchError: they are not there any more, or have changed.
    """
    facts = index.manifest.data
    data = index.training_set.first(facts["rows"])
    if data.fingerprint != facts["fingerprint"]:
        raise MismatchError(
            f"{data.source} holds other images than {index.path} was built from: put these back, "
            "or build the index again with --overwrite"
        )
    return data
