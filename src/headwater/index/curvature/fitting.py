"""A curvature fitted: two passes over the images, in parts, by all who build the index."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from headwater.curvature.basis import Basis, basis_of
from headwater.curvature.factors import added, eigenbases, shape_of
from headwater.curvature.moments import products
from headwater.curvature.passes import Look, factor_sums, looks, moment_sums
from headwater.data.prefetch import reading
from headwater.data.training_set import TrainingSet
from headwater.features.batch import Batch, training_batches
from headwater.features.extractor import Extractor
from headwater.index.config import Recipe
from headwater.index.curvature.fit import RESULTS, Fit
from headwater.index.rows import Source, open_images
from headwater.runtime.batch_size import BatchSize
from headwater.storage.claims import claimed

# What a batch of images, looked at in some way, adds to the sums.
Added = Callable[[Batch, Look], Mapping[str, Tensor]]

# Does parts of a pass: (its name, numbers of parts, whether to wait for other builders' ones) ->
# the number of each that is there, None for one that another builder is at.
Work = Callable[[str, Sequence[int], bool], Iterable[int | None]]


def fit_curvature(fit: Fit, layers: Mapping[str, nn.Module], work: Work) -> None:
    """Do what is missing of a fit, together with whoever else builds the index."""
    index = fit.folder.parent
    if fit.read("bases") is None:
        _do_parts(fit, "factors", work)
        with claimed(index, "bases", wait=True):
            if fit.read("bases") is None:
                sums = _sums(fit, "factors")
                fit.write("bases", eigenbases(sums, int(sums.pop("probes"))))
            for part in fit.folder.glob("factors-*"):  # as large as the file of all, each of them
                part.unlink(missing_ok=True)
    if fit.read("moments") is None:
        looked_at = to_look_at(fit.recipe, layers)
        if looked_at:
            _do_parts(fit, "moments", work)
        with claimed(index, "moments", wait=True):
            if fit.read("moments") is None:
                fit.write("moments", _moments(fit, layers, looked_at))
    with claimed(index, "moments", wait=True):
        for leftover in fit.folder.glob("*-*"):
            leftover.unlink(missing_ok=True)


def _moments(
    fit: Fit, layers: Mapping[str, nn.Module], looked_at: Collection[str]
) -> dict[str, Tensor]:
    """Of every layer: as they were looked at, or else by the sides alone."""
    moments = {}
    if looked_at:
        sums = _sums(fit, "moments")
        probes = sums.pop("probes")
        moments = {name: (value / probes).float() for name, value in sums.items()}
    bases = fit.read("bases")
    assert bases is not None, "the first pass is done"
    for name, layer in layers.items():
        if name not in moments:
            moments[name] = products(layer, name, bases)
    return moments


def to_look_at(recipe: Recipe, layers: Mapping[str, nn.Module]) -> list[str]:
    """The layers whose moments the second pass sees: by K-FAC only those without sides."""
    whole = recipe.curvature == "ekfac"
    return [name for name, layer in layers.items() if whole or shape_of(layer) is None]


def _do_parts(fit: Fit, name: str, work: Work) -> None:
    """Do the parts of a pass that are missing; those that other builders are at at the end."""
    count = len(fit.parts(name))
    left = [number for number in range(count) if fit.read(f"{name}-{number}") is None]
    bar = tqdm(total=count, initial=count - len(left), desc=f"curvature, {name}", delay=2)
    with bar:
        for wait in (False, True):
            done = set()
            for number in work(name, left, wait):
                done.add(number)
                bar.update(number is not None)
            left = [number for number in left if number not in done]


def _sums(fit: Fit, name: str) -> dict[str, Tensor]:
    """Of all parts, in float64: there are many."""
    total: dict[str, Tensor] = {}
    for number in range(len(fit.parts(name))):
        part = fit.read(f"{name}-{number}")
        assert part is not None, "a part was written a moment ago"
        for key, value in part.items():
            total[key] = total[key].add_(value) if key in total else value.double()
    return total


@dataclass(frozen=True)
class Images:
    """What is looked at, and by what. `encodings`: a folder that keeps the encoders' outputs."""

    machine: Extractor
    data: TrainingSet
    encodings: str | Path | None = None


def do_part(
    fit: Fit, images: Images, batch: BatchSize, skip_bad: bool, wait: bool, part: tuple[str, int]
) -> int | None:
    """One part of a pass, (name of the pass, number), unless another builder has done it.

    Args:
        wait: for another builder who is at it; else None is returned.
    """
    name, number = part
    with claimed(fit.folder.parent, f"{name}-{number}", wait) as mine:
        if not mine:
            return None
        # After all parts comes the file that they are summed in, and then they go.
        done = fit.file(RESULTS[name]).exists() or fit.read(f"{name}-{number}") is not None
        if not done:
            _compute_part(fit, images, batch, skip_bad, part)
    return number


def _compute_part(
    fit: Fit, images: Images, batch: BatchSize, skip_bad: bool, part: tuple[str, int]
) -> None:
    """Compute a part and write it."""
    name, number = part
    add, rows = _adder(fit, images.machine, name), fit.parts(name)[number]
    total: dict[str, Tensor] = {"probes": torch.zeros(())}
    for look in looks(images.machine):
        own = rows[look.first :: look.count]
        with reading(images.data, own) as reader:
            source = Source(images.machine, images.data, reader, images.encodings)

            def compute(few: Sequence[int]) -> dict[str, Tensor]:
                return added(
                    {**add(each, look), "probes": _probes(each, look)}  # noqa: B023 - called at once
                    for each in _batches(source, few, skip_bad)  # noqa: B023 - called at once
                )

            total = added([total, *batch.over(own, compute)])
    fit.write(f"{name}-{number}", total)


def _adder(fit: Fit, machine: Extractor, name: str) -> Added:
    targets = fit.recipe.curvature_targets
    if name == "factors":
        return lambda images, look: factor_sums(machine, images, look, targets)
    bases = fit.read("bases")
    assert bases is not None, "the first pass is done"
    wanted = to_look_at(fit.recipe, machine.layers)
    turned: dict[str, Basis] = {n: basis_of(machine.layers[n], n, bases) for n in wanted}
    return lambda images, look: moment_sums(machine, turned, images, look, targets)


def _batches(source: Source, rows: Sequence[int], skip_bad: bool) -> Iterator[Batch]:
    images, _ = open_images(source, rows, skip_bad)
    samples = [source.data.samples[row] for row in images]
    captions, ids = [s.all_captions for s in samples], [s.id for s in samples]
    if images:
        denoiser = source.machine.denoiser
        kept = None if source.encodings is None else Path(source.encodings)
        yield from (
            batch
            for _, batch in training_batches(denoiser, [*images.values()], captions, ids, kept)
        )


def _probes(images: Batch, look: Look) -> Tensor:
    return torch.tensor(float(len(images.x0) * len(look.spec.timesteps)))
