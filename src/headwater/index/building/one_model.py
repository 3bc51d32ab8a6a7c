"""The index of one model: begun, computed and ended, by whoever builds it at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from headwater.data.prefetch import reading
from headwater.data.training_set import Captions, TrainingSet
from headwater.errors import (
    DatasetError,
    MismatchError,
    StoreError,
)
from headwater.features.extractor import Extractor
from headwater.features.gradcheck import WORTH_IT
from headwater.features.gradcheck import self_check as self_check_of
from headwater.index.building.begin import begin, new_manifest, withdraw
from headwater.index.building.notes import notes_on_versions, speak_of_captions
from headwater.index.building.reuse import (
    Kept,
    kept_rows,
    require_its_metric,
    speak_of_kept,
    take_curvature_over,
    with_origin_of,
)
from headwater.index.building.workers import (
    Begun,
    BuildOptions,
    Missing,
    curvature_parts,
    run_as,
    write_shards,
)
from headwater.index.config import (
    Recipe,
)
from headwater.index.curvature.fit import Fit, fit_of, former_of
from headwater.index.curvature.fitting import Images, fit_curvature
from headwater.index.index import Index
from headwater.index.machines import extractor, without_projection
from headwater.index.rows import Source, open_images
from headwater.index.samples import write_samples
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.models.encodings import encode, remove_unfinished, warn_of_lost_words
from headwater.runtime.batch_size import BatchSize
from headwater.storage.blocks import read_positions
from headwater.storage.claims import builders, building, drop_dead_claims
from headwater.storage.lock import locked
from headwater.storage.manifest import (
    Manifest,
    Shard,
    read_manifest,
    require_same,
    run_of,
    write_manifest,
)
from headwater.storage.shards import (
    finish,
    finished_shards,
    has_samples,
    noted_shards,
    remove_leftovers,
    shard_ranges,
)


@dataclass(frozen=True)
class Job:
    """What the indexes of a model and of its further checkpoints have in common.

    Attributes:
        present: while it is open, folders say that this process builds in them.
    """

    data: TrainingSet
    how: BuildOptions
    batch: BatchSize
    note: Callable[[str], None]
    clip: Clip | None
    present: ExitStack


class _Underway(NamedTuple):
    """An index that is begun, as this process found it.

    Attributes:
        fresh: nobody had begun it before.
        done: the shards that are there, by their first row.
        left: those that this process is to see to.
        kept: rows that another index has already.
    """

    manifest: Manifest
    fit: Fit | None
    fresh: bool
    done: dict[int, Shard]
    left: list[Missing]
    kept: Kept | None


def build_planned(
    job: Job, denoiser: Denoiser, planned: Recipe, out: Path, checkpoints: int = 0
) -> Index | None:
    """The index of one model, by a recipe; None if parts of it are still left to others."""
    existed = out.exists()
    with locked(out, partial(_refuse_or_wait, job, denoiser, planned, out)):
        underway = _begin(job, denoiser, planned, out, checkpoints)
        if underway is None:
            return Index.open(out, denoiser, job.data, clip=job.clip)
        job.present.enter_context(building(out))
    try:
        done = _compute(job, denoiser, planned, out, underway)
    except BaseException:
        job.present.close()
        if underway.fresh:
            _withdraw_what_is_nothing(out, existed)
        raise
    with locked(out, lambda owner: None):
        return _end(job, denoiser, out, done)


def _refuse_or_wait(job: Job, denoiser: Denoiser, planned: Recipe, out: Path, owner: str) -> None:
    """What to do where somebody begins, ends or mends an index: wait, if it is the same."""
    if job.how.overwrite:
        _refuse_to_overwrite(out, owner)
    if (out / "index.json").exists():
        old = read_manifest(out)
        new = new_manifest(denoiser, job.data, planned, job.clip)
        require_same(out, old, replace(new, checkpoints=old.checkpoints))
    job.note(f"waiting for {owner}")


def _refuse_to_overwrite(out: Path, owner: str) -> None:
    raise MismatchError(
        f"{out} is being written by {owner}: wait until it is done, or stop it, and then "
        "--overwrite"
    )


def _begin(
    job: Job, denoiser: Denoiser, planned: Recipe, out: Path, checkpoints: int
) -> _Underway | None:
    """Begin the index or find it again; None if it is whole. Whoever calls holds the lock."""
    data, others = job.data, builders(out)
    if others and job.how.overwrite:
        _refuse_to_overwrite(out, others[0])
    fresh = job.how.overwrite or not (out / "index.json").exists()
    new = replace(new_manifest(denoiser, data, planned, job.clip), checkpoints=checkpoints)
    kept = None if job.how.reuse is None else kept_rows(job.how.reuse, new, data)
    if kept is not None:
        new = with_origin_of(kept, new)
    manifest = begin(out, new, job.how.overwrite)
    done, left = _done_and_left(job, out, manifest)
    fit = fit_of(out, manifest, planned) if planned.curvature else None
    if fit is not None and kept is not None:
        require_its_metric(kept, fit, out)
    whole = manifest.complete and not left and has_samples(out, manifest)
    if whole and (fit is None or fit.is_of_rows):
        if not others:
            remove_leftovers(out)
        return None
    if others:
        job.note(f"joining {', '.join(others)}: they build the same index")
    elif done:
        job.note(f"resuming: {len(done)} of {len(done) + len(left)} shards are there")
    if done:
        for line in notes_on_versions(manifest, new):
            job.note(line)
    if fit is not None:
        fit.drop_damaged()
    return _Underway(manifest, fit, fresh, done, left, kept)


def _done_and_left(
    job: Job, out: Path, manifest: Manifest
) -> tuple[dict[int, Shard], list[Missing]]:
    """Of the shards that this process sees to, those that are whole, and the others."""
    ranges = shard_ranges(manifest.data["rows"], manifest.shard_rows)
    own = job.how.numbers(len(ranges))
    done = finished_shards(out, manifest, own)
    return done, [(number, ranges[number]) for number in own if ranges[number].start not in done]


def _compute(
    job: Job, denoiser: Denoiser, planned: Recipe, out: Path, underway: _Underway
) -> dict[int, Shard]:
    """The shards that this process sees to, once they are there."""
    data, how = job.data, job.how
    manifest, fit, _, done, left, kept = underway
    own = [data.samples[row] for _, rows in left for row in rows]
    warn_of_lost_words(denoiser, Captions(own))
    if denoiser.conditional:
        speak_of_captions(data, job.note)
    layers = list(denoiser.layers_named(planned.layers).values())
    with (
        reading(data, [row for _, rows in left for row in rows]) as reader,
        run_as(how, denoiser.network, layers),
    ):
        if planned.train.gradient:
            gradients = without_projection(denoiser, planned)
            if how.self_check:
                _check_first(Source(gradients, data, reader), left, job.note)
            if fit is not None:
                _have_curvature(job, gradients, fit, out, kept)
                manifest = _in_metric(out, manifest, fit.digest())
                done, left = _done_and_left(job, out, manifest)
        former = former_of(out, manifest, planned)
        machine = extractor(denoiser, planned, job.clip, [former])
        if kept is not None:
            speak_of_kept(kept, manifest, job.note)
        source = Source(machine, data, reader, how.encodings)
        for shard in write_shards(Begun(out, manifest, kept), source, how, job.batch, left):
            done[shard.first] = shard
    if how.encodings is not None:
        remove_unfinished(Path(how.encodings))
    return done


def _have_curvature(job: Job, machine: Extractor, fit: Fit, out: Path, kept: Kept | None) -> None:
    """What rows are in the metric of, before there are any."""
    if kept is not None:
        take_curvature_over(kept, fit)
    elif fit.is_taken_over and not fit.whole:
        raise StoreError(
            f"{fit.folder} is missing or damaged, and was fitted to the images of another index: "
            "name that with --reuse again, or --overwrite"
        )
    images = Images(machine, job.data, job.how.encodings)
    fit_curvature(fit, machine.layers, curvature_parts(out, fit, images, job.how, job.batch))


def _in_metric(out: Path, manifest: Manifest, metric: str) -> Manifest:
    """The manifest of rows in this metric: those in another are not its own."""
    with locked(out, lambda owner: None):
        now = read_manifest(out)
        if run_of(replace(now, metric="")) != run_of(replace(manifest, metric="")):
            raise MismatchError(f"{out} was begun anew by another process, as another index")
        if now.metric != metric:
            now = replace(now, metric=metric, complete=False, samples_sha256="", shards=())
            write_manifest(out, now)
    return now


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


def _withdraw_what_is_nothing(out: Path, existed: bool) -> None:
    """Leave nothing of a run that failed before its first shard was whole, if it was the only one.

    Args:
        existed: the folder itself, before.
    """
    with locked(out, lambda owner: None):
        curvature = out / "curvature"
        something = any(out.glob("features/*.json")) or any(curvature.glob("*"))
        if something or builders(out):
            return
        withdraw(out)
    if not existed:
        with suppress(OSError):
            out.rmdir()


def _end(job: Job, denoiser: Denoiser, out: Path, done: Mapping[int, Shard]) -> Index | None:
    """Complete the index if all its shards are there; whoever calls holds the lock."""
    manifest = read_manifest(out)
    known = noted_shards(out, manifest) | dict(done)
    ranges = shard_ranges(len(job.data), manifest.shard_rows)
    missing = [rows.start for rows in ranges if rows.start not in known]
    if missing:
        job.note(f"{len(missing)} of {len(ranges)} shards are left to others")
        return None
    shards = tuple(known[rows.start] for rows in ranges)
    if manifest.complete and manifest.shards == shards and has_samples(out, manifest):
        remove_leftovers(out)  # another builder has completed it
    else:
        complete(out, manifest, shards, job.data)
    drop_dead_claims(out)
    return Index.open(out, denoiser, job.data, clip=job.clip)


def complete(
    out: Path, manifest: Manifest, shards: Sequence[Shard], training_set: TrainingSet
) -> None:
    """Write the table of samples, and say in the manifest that the index is whole."""
    positions = read_positions(out, shards)
    if not positions:
        raise DatasetError(f"{training_set.source}: every image was skipped, nothing to index")
    samples = [training_set.samples[i] for i in positions]
    contents = [training_set.contents[i] for i in positions] if training_set.contents else ()
    write_samples(out, samples, positions, contents)
    finish(out, manifest, shards)
