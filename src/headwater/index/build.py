"""Training set -> index: of a model, and of its further checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from headwater.data.training_set import IN_MEMORY, TrainingSet
from headwater.errors import (
    ParameterError,
)
from headwater.index.building.begin import refuse_file
from headwater.index.building.notes import notes_on_parameters
from headwater.index.building.one_model import Job, build_planned
from headwater.index.building.workers import (
    BuildOptions,
)
from headwater.index.config import (
    Recipe,
    plan,
    planned_of_all,
    refuse_ignored,
    require_kinds,
)
from headwater.index.index import Index
from headwater.methods.choice import method_named
from headwater.models.denoiser import Denoiser
from headwater.runtime.batch_size import BatchSize
from headwater.runtime.executor import THIS_PROCESS
from headwater.storage.manifest import (
    checkpoint_folders,
    read_manifest,
)


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
    sample, recipe, seed) alone. Several processes, on any machines that see the folder, build an
    index together when each is given the same: what one is at, the others leave to it.

    Args:
        checkpoints: more models, of the same kind, whose scores are averaged with this one's.
            Each gets an index of its own inside `out`. All are looked at before anything is built.
        note: called with one line of text on what was chosen.
        **options: what the rows are, as in `config.IndexOptions` (`method`, `parameters`,
            `timesteps`, `dim`, ...), and how they are made, as in `workers.BuildOptions`
            (`batch_size`, `skip_bad`, `overwrite`, `executor`, ...).

    Raises:
        ModelError, DatasetError: the first is no Denoiser, or the second no TrainingSet.
        MismatchError: `out` was begun with another recipe, model or data set, or is overwritten.
        SelfCheckError: the model's gradients are not what the engine computes.
        BadImageError, NonFiniteError, ResourceError, MethodError, ParameterError, StoreError: each
            says what of an image, a number, the machine, an option or the disk.

    Example:
        index = build_index(Denoiser.load("scenes"), load_dataset("scenes"), "index", dim=1024)
    """
    index = build_shard(
        denoiser, training_set, out, (0, 1), checkpoints=checkpoints, note=note, **options
    )
    assert index is not None, "the one part there is is the whole"
    return index


def build_shard(
    denoiser: Denoiser,
    training_set: TrainingSet,
    out: str | Path,
    part: tuple[int, int],
    *,
    checkpoints: Sequence[str | Path] = (),
    note: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Index | None:
    """Compute one part of an index: the i-th of n, counted from 0, as `part` = (i, n) says.

    For array jobs of a cluster, in any order or all at once. The index comes back from the one
    that finds all the others done; it is the same as of one process.

    Args:
        part: which one, and of how many.
        checkpoints: as of `build_index`.
        note: as of `build_index`.
        **options: as of `build_index`.

    Raises:
        ParameterError: there is no such part, or it would overwrite the others' work.
        ModelError, DatasetError, MismatchError, SelfCheckError: as of `build_index`.
        BadImageError, NonFiniteError, ResourceError, MethodError, StoreError: likewise.

    Example:
        index = build_shard(denoiser, training_set, "index", (0, 4), dim=1024)
    """
    require_kinds(denoiser, training_set)
    own = {field.name for field in fields(BuildOptions)}
    how = replace(
        BuildOptions(**{name: options.pop(name) for name in own & options.keys()}), part=part
    )
    planned = planned_of_all(denoiser, checkpoints, **options)[0]
    for line in notes_on_parameters(denoiser, planned, options):
        note(line)
    _refuse_useless(how, denoiser, training_set, planned)
    out = Path(out)
    _refuse_to_remove_what_is_reused(how, out)
    batch = BatchSize(how.batch_size, note, denoiser.device)
    refuse_file(out)
    with ExitStack() as present:
        job = Job(training_set, how, batch, note, options.get("clip"), present)
        built = [build_planned(job, denoiser, planned, out, checkpoints=len(checkpoints))]
        folders = checkpoint_folders(out, read_manifest(out))
        for source, folder in zip(checkpoints, folders, strict=True):
            note(f"checkpoint {source}")
            other, own = denoiser.like(source), job
            if how.reuse is not None:
                same = Path(how.reuse) / folder.relative_to(out)
                own = replace(job, how=replace(how, reuse=same))
            built.append(build_planned(own, other, plan(other, **options), folder))
            del other  # before the next is loaded
    return None if None in built else built[0]


def _refuse_to_remove_what_is_reused(how: BuildOptions, out: Path) -> None:
    if how.overwrite and how.reuse is not None:
        if Path(how.reuse).resolve().is_relative_to(out.resolve()):
            raise ParameterError(
                f"--overwrite removes {out}, whose rows --reuse is to take over: name another "
                "folder for the new index"
            )


def _refuse_useless(
    how: BuildOptions, denoiser: Denoiser, data: TrainingSet, planned: Recipe
) -> None:
    """Refuse options that this index has no use for, or that workers cannot follow."""
    part, parts = how.part
    if not 0 <= part < parts:
        raise ParameterError(f"--shard {part}/{parts} is none of {parts}, counted from 0")
    if parts > 1 and how.overwrite:
        raise ParameterError(
            "--overwrite with --shard would remove what the other shards write: remove the folder "
            "first"
        )
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
