"""Training set -> index: which shards are missing, compute them, write them, finish."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from headwater.data.prefetch import reading
from headwater.data.training_set import IN_MEMORY, TrainingSet, every_caption
from headwater.errors import (
    DatasetError,
    HeadwaterWarning,
    MismatchError,
    ParameterError,
)
from headwater.features.extractor import Extractor
from headwater.features.gradcheck import WORTH_IT
from headwater.features.gradcheck import self_check as self_check_of
from headwater.index.begin import begin, new_manifest, refuse_file, withdraw
from headwater.index.config import (
    Recipe,
    plan,
    planned_of_all,
    refuse_ignored,
    require_kinds,
)
from headwater.index.curvature import Fit, Images, fit_curvature, fit_of, former_of
from headwater.index.index import Index
from headwater.index.machines import extractor, without_projection
from headwater.index.notes import notes_on_parameters, notes_on_versions
from headwater.index.rows import Source, open_images
from headwater.index.samples import RowSamples, write_samples
from headwater.index.workers import (
    Begun,
    BuildOptions,
    Missing,
    curvature_parts,
    run_as,
    write_shards,
)
from headwater.methods.choice import method_named
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.models.encodings import encode, warn_of_lost_words
from headwater.runtime.batch_size import BatchSize
from headwater.runtime.executor import THIS_PROCESS
from headwater.storage.lock import locked
from headwater.storage.manifest import (
    Manifest,
    Shard,
    checkpoint_folders,
    read_manifest,
    require_same,
    write_manifest,
)
from headwater.storage.shards import (
    finish,
    finished_shards,
    has_samples,
    read_positions,
    remove_leftovers,
    shard_ranges,
)


@dataclass(frozen=True)
class Job:
    """What the indexes of a model and of its further checkpoints have in common."""

    data: TrainingSet
    how: BuildOptions
    batch: BatchSize
    note: Callable[[str], None]
    clip: Clip | None


def build_index(
    denoiser: Denoiser,
    training_set: TrainingSet,
    out: str | Path,
    *,
    checkpoints: Sequence[str | Path] = (),
    note: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Index:
    """Compute the features of every training image and store them in the folder `out`.

    Resumes: shards that are whole stay, whatever batch size made them. Rows depend on (model,
    sample, recipe, seed) alone.

    Args:
        checkpoints: more models, of the same kind, whose scores are averaged with this one's.
            Each gets an index of its own inside `out`. All are looked at before anything is built.
        note: called with one line of text on what was chosen.
        **options: what the rows are, as in `config.IndexOptions` (`method`, `parameters`,
            `timesteps`, `dim`, ...), and how they are made, as in `workers.BuildOptions`
            (`batch_size`, `skip_bad`, `overwrite`, `executor`, ...).

    Raises:
        ModelError, DatasetError: the first is no Denoiser, or the second no TrainingSet.
        MismatchError: `out` was begun with another recipe, model or data set.
        SelfCheckError: the model's gradients are not what the engine computes.
        BadImageError, NonFiniteError, ResourceError, MethodError, ParameterError, StoreError.

    Example:
        index = build_index(Denoiser.load("scenes"), load_dataset("scenes"), "index", dim=1024)
    """
    require_kinds(denoiser, training_set)
    own = {field.name for field in fields(BuildOptions)}
    how = BuildOptions(**{name: options.pop(name) for name in own & options.keys()})
    planned = planned_of_all(denoiser, checkpoints, **options)[0]
    for line in notes_on_parameters(denoiser, planned, options):
        note(line)
    _refuse_useless(how, denoiser, training_set, planned)
    out = Path(out)
    batch = BatchSize(how.batch_size, note, denoiser.device)
    job = Job(training_set, how, batch, note, options.get("clip"))
    refuse_file(out)
    with locked(out, partial(_wait_or_refuse, job, denoiser, planned, out)):
        index = build_planned(job, denoiser, planned, out, checkpoints=len(checkpoints))
        folders = checkpoint_folders(out, index.manifest)
        for source, folder in zip(checkpoints, folders, strict=True):
            note(f"checkpoint {source}")
            other = denoiser.like(source)
            build_planned(job, other, plan(other, **options), folder)
            del other  # before the next is loaded
        return index


def _wait_or_refuse(job: Job, denoiser: Denoiser, planned: Recipe, out: Path, owner: str) -> None:
    """What to do where somebody else writes the index: wait, if it is the same."""
    if job.how.overwrite:
        raise MismatchError(
            f"{out} is being written by {owner}: wait until it is done, or stop it, and then "
            "--overwrite"
        )
    if (out / "index.json").exists():
        old = read_manifest(out)
        new = new_manifest(denoiser, job.data, planned, job.clip)
        require_same(out, old, replace(new, checkpoints=old.checkpoints))
    job.note(f"waiting for {owner}, which builds the same index")


def _refuse_useless(
    how: BuildOptions, denoiser: Denoiser, data: TrainingSet, planned: Recipe
) -> None:
    """Refuse options that this index has no use for, or that workers cannot follow."""
    workers = how.executor != THIS_PROCESS
    if not planned.train.gradient:
        refuse_ignored(
            method_named(planned.method),
            compile=how.compile,
            recompute=how.recompute,
            encodings=bool(how.encodings),
            engine=how.executor.name != THIS_PROCESS.name,
            jobs=how.executor.jobs > 1,
        )
    if workers and (not denoiser.source or data.source == IN_MEMORY):
        raise ParameterError(
            "workers (--engine, --jobs) load the model and the images themselves: save what is in "
            "memory and load it from there, or leave them out"
        )


def build_planned(
    job: Job, denoiser: Denoiser, planned: Recipe, out: Path, checkpoints: int = 0
) -> Index:
    """The index of one model, by a recipe; whoever calls holds the lock of the folder."""
    data, how = job.data, job.how
    begun = (out / "index.json").exists() and not how.overwrite
    new = replace(new_manifest(denoiser, data, planned, job.clip), checkpoints=checkpoints)
    manifest = begin(out, new, how.overwrite)
    done = finished_shards(out, manifest)
    ranges = shard_ranges(len(data), manifest.shard_rows)
    fit = fit_of(out, manifest, planned) if planned.curvature else None
    whole = len(done) == len(ranges) and has_samples(out, manifest)
    if manifest.complete and whole and (fit is None or fit.is_of_rows):
        remove_leftovers(out)
        return Index.open(out, denoiser, data, clip=job.clip)
    if done:
        job.note(f"resuming: {len(done)} of {len(ranges)} shards are there")
        for line in notes_on_versions(manifest, new):
            job.note(line)
    warn_of_lost_words(denoiser, every_caption(data.samples))
    if denoiser.conditional:
        _speak_of_captions(data, job.note)
    left = [(i, rows) for i, rows in enumerate(ranges) if rows.start not in done]
    layers = list(denoiser.layers_named(planned.layers).values())
    try:
        with (
            reading(data, [row for _, rows in left for row in rows]) as reader,
            run_as(how, denoiser.network, layers),
        ):
            if planned.train.gradient:
                gradients = without_projection(denoiser, planned)
                if how.self_check:
                    _check_first(Source(gradients, data, reader), left, job.note)
                if fit is not None:
                    _fit_curvature(job, gradients, fit, out)
                    manifest = _with_metric(out, manifest, fit.digest())
                    done = finished_shards(out, manifest)
                    left = [(i, rows) for i, rows in enumerate(ranges) if rows.start not in done]
            former = former_of(out, manifest, planned)
            machine = extractor(denoiser, planned, job.clip, [former])
            source = Source(machine, data, reader, how.encodings)
            begun_index = Begun(out, manifest)
            for shard in write_shards(begun_index, source, how, job.batch, left):
                done[shard.first] = shard
    except BaseException:
        if not (begun or done or finished_shards(out, manifest) or (fit and fit.begun)):
            withdraw(out)
        raise
    complete(out, manifest, [done[rows.start] for rows in ranges], data)
    return Index.open(out, denoiser, data, clip=job.clip)


def _fit_curvature(job: Job, machine: Extractor, fit: Fit, out: Path) -> None:
    """What rows are in the metric of, before there are any."""
    images = Images(machine, job.data, job.how.encodings)
    fit_curvature(fit, machine.layers, curvature_parts(out, fit, images, job.how, job.batch))


def _with_metric(out: Path, manifest: Manifest, metric: str) -> Manifest:
    """The manifest of rows in this metric: those in another are not its own."""
    if manifest.metric == metric:
        return manifest
    new = replace(manifest, metric=metric, complete=False, samples_sha256="", shards=())
    write_manifest(out, new)
    return new


def _check_first(source: Source, left: Sequence[Missing], note: Callable[[str], None]) -> None:
    """Check the gradients of two images that can be read, if there is a long run ahead."""
    machine = source.machine
    assert isinstance(machine, Extractor), "what makes no gradients is not checked"
    rows = [row for _, shard in left for row in shard]
    if len(rows) * len(machine.timesteps) * machine.draws < WORTH_IT:
        return
    images, _ = open_images(source, rows[:8], skip_bad=True)
    two = list(images)[:2]
    if len(two) == 2:
        captions = [source.data.samples[row].caption for row in two]
        x0, condition = encode(machine.denoiser, [images[row] for row in two], captions)
        note(self_check_of(machine.denoiser, machine.layers, x0, condition))


def _speak_of_captions(data: TrainingSet, note: Callable[[str], None]) -> None:
    """Say how many images have several, and how many none."""
    several = [sample.id for sample in data.samples if sample.captions]
    if several:
        note(
            f"{len(several)} image(s) have several captions, such as {several[0]!r}: one is drawn "
            "at each probe"
        )
    missing = [sample.id for sample in data.samples if not sample.caption]
    if len(missing) == len(data):
        text = f"{data.source} has no captions, and the model was trained with them"
        warnings.warn(text, HeadwaterWarning, stacklevel=3)
    elif missing:
        text = (
            f"{data.source}: {len(missing)} of {len(data)} images have no caption, such as "
            f"{missing[0]!r}, and are taken with an empty one"
        )
        warnings.warn(text, HeadwaterWarning, stacklevel=3)


def complete(
    out: Path, manifest: Manifest, shards: Sequence[Shard], training_set: TrainingSet
) -> None:
    """Write the table of samples, and say in the manifest that the index is whole."""
    positions = read_positions(out, shards)
    if not positions:
        raise DatasetError(f"{training_set.source}: every image was skipped, nothing to index")
    samples = [training_set.samples[i] for i in positions]
    write_samples(out, RowSamples(samples, positions))
    finish(out, manifest, shards)
