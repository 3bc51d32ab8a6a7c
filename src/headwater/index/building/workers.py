"""Shards of an index: computed and written, by this process or by workers."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from headwater.data.prefetch import reading
from headwater.data.training_set import TrainingSet
from headwater.errors import MismatchError
from headwater.features.batch import Rows
from headwater.features.extractor import Extractor
from headwater.index.building.reuse import Kept, kept_rows
from headwater.index.curvature.fit import Fit, fit_of, former_of
from headwater.index.curvature.fitting import Images, Work, do_part
from headwater.index.index import Handed, Index
from headwater.index.machines import gradient_extractor, load_denoiser, without_projection
from headwater.index.rows import Source, shard_rows
from headwater.index.samples import RowSamples
from headwater.models.denoiser import Denoiser
from headwater.models.patches import compiled, recomputed
from headwater.runtime.batch_size import BatchSize
from headwater.runtime.executor import THIS_PROCESS, Executor, run, workers_beside
from headwater.storage import shards
from headwater.storage.claims import claimed
from headwater.storage.manifest import Manifest, Shard, read_manifest
from headwater.storage.shards import ShardRows

# A shard that is not there: its number, and the rows of the data set that it covers.
Missing = tuple[int, range]

NO_WORKERS = "`build_index` gives workers to methods of gradients alone"


@dataclass(frozen=True)
class BuildOptions:
    """How an index is built, which changes no number in it.

    Args:
        batch_size: images at a time; None finds the largest that memory safely holds, up to 32 (256
            on a GPU), and no more than a shard has rows.
        skip_bad: leave out files that are no images (they are counted in the manifest).
        overwrite: drop an index that is there already.
        self_check: before a run of 1,000 probes or more, compare the gradients of two images with
            float64 autograd.
        compile: `torch.compile` the parts of the network between the attributed layers.
        recompute: keep no activations but each block's first (`patches.recomputed`).
        encodings: a folder where the encoders' outputs are kept, by content, for other indexes.
        reuse: an index of the same model and recipe, whose rows of images that have not changed
            are taken over (`building.reuse`), and its curvature, to whose images it stays fitted.
        executor: who computes the shards. Workers load the model and the images again, from where
            these came from.
        part: (i, n): every n-th shard from the i-th on, counted from 0, and no others.
    """

    batch_size: int | None = None
    skip_bad: bool = False
    overwrite: bool = False
    self_check: bool = True
    compile: bool = False
    recompute: bool = False
    encodings: str | Path | None = None
    reuse: str | Path | None = None
    executor: Executor = THIS_PROCESS
    part: tuple[int, int] = (0, 1)

    def numbers(self, count: int) -> range:
        """Which of so many shards are to be computed."""
        first, step = self.part
        return range(first, count, step)


class Begun(NamedTuple):
    """An index that was begun: its folder, and what stands in its `index.json`.

    Attributes:
        kept: rows that another index has already.
    """

    folder: Path
    manifest: Manifest
    kept: Kept | None = None


@contextmanager
def run_as(how: BuildOptions, network: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """The network as the options want it run; `layers` are those attributed."""
    with ExitStack() as stack:
        if how.compile and layers:
            stack.enter_context(compiled(network, layers))
        if how.recompute:
            stack.enter_context(recomputed(network))
        yield


def write_shards(
    begun: Begun, source: Source, how: BuildOptions, batch: BatchSize, left: Sequence[Missing]
) -> Iterator[Shard]:
    """Each missing shard of an index, once it is written, by whomever.

    Other builders may be at the same index: what they are at is left to them, and waited for at the
    end.

    Args:
        source, batch: for shards that this process computes itself; workers make their own.
    """
    total, machine = len(source.data), source.machine
    first = total - sum(len(rows) for _, rows in left)
    with tqdm(total=total, initial=first, desc="index", unit="row", delay=2) as bar:
        for wait in (False, True):
            if how.executor == THIS_PROCESS:
                writer = Writer(begun, source, how.skip_bad, batch, bar.update)
                made = map(partial(write_shard, writer, wait), left)
            else:
                assert isinstance(machine, Extractor), NO_WORKERS
                device = str(machine.denoiser.device)
                start = partial(shard_writer, begun.folder, how, device, wait)
                made = _counted(run(how.executor, start, left, device), bar.update)
            done = set()
            for shard in filter(None, made):
                done.add(shard.first)
                yield shard
            left = [missing for missing in left if missing[1].start not in done]


def _counted(made: Iterable[Shard | None], tick: Callable[[int], Any]) -> Iterator[Shard | None]:
    for shard in made:
        tick(0 if shard is None else shard.rows + len(shard.skipped))
        yield shard


@dataclass(frozen=True)
class Writer:
    """What a process writes shards with. `tick`: is called with rows that are done."""

    begun: Begun
    source: Source
    skip_bad: bool
    batch: BatchSize
    tick: Callable[[int], Any] = lambda rows: None


def write_shard(writer: Writer, wait: bool, missing: Missing) -> Shard | None:
    """Compute one shard and write it, unless another builder has; None while one does.

    Args:
        wait: until that one is done, or has died.
    """
    (number, rows), begun = missing, writer.begun
    with claimed(begun.folder, f"{number:05d}", wait) as mine:
        if not mine:
            return None
        shard = _made_meanwhile(begun, number)
        if shard is not None:
            writer.tick(len(rows))
            return shard
        computed = _rows_of_shard(writer, rows)
        return shards.write_shard(begun.folder, begun.manifest, number, computed)


def _rows_of_shard(writer: Writer, rows: range) -> ShardRows:
    """The rows of a shard: those that another index has from there, the others computed."""
    kept = writer.begun.kept

    def computed(rows: Sequence[int]) -> tuple[Rows, list[int], list[str]]:
        return shard_rows(writer.source, rows, writer.batch, writer.skip_bad, writer.tick)

    if kept is None:
        made, good, skipped = computed(rows)
        return ShardRows(made.features, good, skipped, made.residuals)
    there, stored = kept.read(rows)
    writer.tick(len(there))
    made, good, skipped = computed(sorted(set(rows).difference(there)))
    positions = [*there, *good]
    order = torch.tensor(sorted(range(len(positions)), key=positions.__getitem__))
    parts = [part for part in (stored.residuals, made.residuals) if part is not None]
    return ShardRows(
        torch.cat([stored.features, made.features])[order],
        sorted(positions),
        skipped,
        torch.cat(parts)[order] if parts else None,
        torch.cat([stored.scale, torch.zeros(len(good))])[order],
    )


def _made_meanwhile(begun: Begun, number: int) -> Shard | None:
    """A shard that another builder has made since this one looked."""
    now = read_manifest(begun.folder)
    if shards.run_of(now) != shards.run_of(begun.manifest):
        raise MismatchError(
            f"{begun.folder} was begun anew by another process, as another index: see what that "
            "builds, and build this one in another folder"
        )
    return shards.finished_shard(begun.folder, now, number)


def shard_writer(
    out: Path, how: BuildOptions, device: str, wait: bool
) -> Callable[[Missing], Shard | None]:
    """`write_shard` for a worker, which knows nothing but the folder of the index that was begun.

    Loads the model and the images from where the manifest says that they lie.

    Raises:
        MismatchError: they are not what the index was begun with.
        ModelError, DatasetError: they cannot be read here.
    """
    index, data, denoiser = _found(out, device)
    former = former_of(out, index.manifest, index.recipe)
    machine = gradient_extractor(denoiser, index.recipe, [former])
    batch = _ready(denoiser, machine, how, device)
    kept = None if how.reuse is None else kept_rows(how.reuse, index.manifest, data)

    def write(missing: Missing) -> Shard | None:
        with reading(data, missing[1]) as reader:  # of the rows of this shard alone
            source = Source(machine, data, reader, how.encodings)
            writer = Writer(Begun(out, index.manifest, kept), source, how.skip_bad, batch)
            return write_shard(writer, wait, missing)

    return write


def part_doer(
    out: Path, how: BuildOptions, device: str, wait: bool
) -> Callable[[tuple[str, int]], int | None]:
    """`curvature.do_part` for a worker, which knows as little."""
    index, data, denoiser = _found(out, device)
    machine = without_projection(denoiser, index.recipe)
    batch = _ready(denoiser, machine, how, device)
    fit = fit_of(out, index.manifest, index.recipe)
    return partial(do_part, fit, Images(machine, data, how.encodings), batch, how.skip_bad, wait)


def curvature_parts(
    out: Path, fit: Fit, images: Images, how: BuildOptions, batch: BatchSize
) -> Work:
    """Who does the parts of a fit: this process, or workers."""

    def work(name: str, left: Sequence[int], wait: bool) -> Iterable[int | None]:
        parts = [(name, number) for number in left]
        if how.executor == THIS_PROCESS:
            return map(partial(do_part, fit, images, batch, how.skip_bad, wait), parts)
        device = str(images.machine.denoiser.device)
        return run(how.executor, partial(part_doer, out, how, device, wait), parts, device)

    return work


def _found(out: Path, device: str) -> tuple[Index, TrainingSet, Denoiser]:
    """An index that was begun, with its images and its model."""
    handed = Handed(device=device)
    index = Index(out, read_manifest(out), RowSamples(), handed=handed)
    data = index.training_set.first(index.manifest.data["rows"])
    if data.fingerprint != index.manifest.data["fingerprint"]:
        raise MismatchError(
            f"{data.source} holds other images than {out} was begun with, or these are chosen from "
            "it: save them as a folder of their own, or leave out --engine and --jobs"
        )
    return index, data, load_denoiser(index)


def _ready(denoiser: Denoiser, machine: Extractor, how: BuildOptions, device: str) -> BatchSize:
    """The network run as the options want it, as long as the process lives; its batch size."""
    life = ExitStack()
    atexit.register(life.close)
    life.enter_context(run_as(how, denoiser.network, list(machine.layers.values())))
    return BatchSize(how.batch_size, device=device, sharing=workers_beside(how.executor, device))
