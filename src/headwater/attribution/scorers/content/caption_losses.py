"""What the model's own training loss of an image would be under other captions.

    loss(z, c; t, e) = mean square of out(a x0 + s e, t, c) - (p x0 + q e)

The noise belongs to (seed, image, t), so that all captions of an image are compared at the same
points. What was computed is kept by content, a file for each block of images and each column of
captions: an interruption loses no more than a block, and a question that shares captions with an
earlier one computes the others alone. Forward passes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.content.sequential import Course, explained_best
from headwater.data.prefetch import Reader, reading
from headwater.features.batch import Batch, in_order, training_batches
from headwater.features.objectives import image_objectives
from headwater.features.spec import ProbeSpec, Side
from headwater.models.denoiser import Denoiser
from headwater.models.patches import captions_kept, frozen
from headwater.runtime.batch_size import BatchSize
from headwater.runtime.progress import ProgressBar
from headwater.storage import cache

BLOCK = 128  # images of a file

Result = TypeVar("Result")
# How many images there are, and what is computed of some -> that of all, some at a time.
Batches = Callable[[int, Callable[[Sequence[int]], Any]], Iterator[Any]]

_NOISED = Side("noising", "dsm")


def caption_losses(
    resources: Resources, rows: Sequence[int], texts: Sequence[Sequence[str]], spec: ProbeSpec
) -> Float[Tensor, "t r v"]:
    """The loss of training images under captions that they could have, at each timestep.

    Args:
        rows: of the index.
        texts: of each of these rows v captions.
        spec: timesteps, and the seed of the noise.

    Raises:
        MismatchError: the images are not those of the index.
    """

    def block(own: slice, reader: Reader, batches: Batches) -> Float[Tensor, "t b v"]:
        columns = [*zip(*texts[own], strict=True)]
        return _block(resources, reader, batches, rows[own], columns, spec)

    return torch.cat(_by_blocks(resources, rows, block, "images under other captions"), 1)


def best_caption(
    resources: Resources,
    rows: Sequence[int],
    texts: Sequence[Sequence[str]],
    course: Course,
    spec: ProbeSpec,
) -> tuple[Bool[Tensor, " r"], int]:
    """Which training images their first caption explains better than each of the others.

    Args:
        rows: of the index.
        texts: of each of these rows v captions.
        course: of the timesteps, when a pair of captions is decided.
        spec: timesteps, and the seed of the noise.

    Returns:
        And how many losses were wanted.

    Raises:
        MismatchError: the images are not those of the index.
    """
    best, wanted = [torch.zeros(0, dtype=torch.bool)], 0

    def block(own: slice, reader: Reader, batches: Batches) -> cache.Entry:
        some, captions = rows[own], texts[own]
        facts = {
            **_facts(resources, some, captions, spec),
            "course": [list(course.order), list(course.bounds)],
        }

        def compute(part: Sequence[int]) -> tuple[Bool[Tensor, " b"], int]:
            few = [some[i] for i in part], [captions[i] for i in part]
            return _best(resources, reader, *few, course, spec)

        def whole() -> cache.Computed:
            parts = [*batches(len(some), compute)]
            taken = sum(count for _, count in parts)
            return {"best": torch.cat([each for each, _ in parts])}, {"losses": taken}

        return cache.remember(resources.queries, facts, whole)

    title = "images whose captions say nothing of the kind"
    for entry in _by_blocks(resources, rows, block, title):
        best.append(entry.tensors["best"])
        wanted += entry.note["losses"]
    return torch.cat(best), wanted


def _by_blocks(
    resources: Resources,
    rows: Sequence[int],
    compute: Callable[[slice, Reader, Batches], Result],
    title: str,
) -> list[Result]:
    """What is computed of each block of these rows, whose pictures are opened ahead."""
    index, found = resources.index, []
    index.require_same_images()
    batch = BatchSize(None, device=resources.denoiser.device)
    positions = sorted(index.positions[row] for row in rows)
    with (
        reading(index.pictures, positions) as reader,
        ProgressBar(total=len(rows), desc=title, unit="image") as bar,
    ):

        def batches(count: int, of: Callable[[Sequence[int]], Result]) -> Iterator[Result]:
            for size, result in batch.over(range(count), lambda part: (len(part), of(part))):
                bar.update(size)
                yield result

        for start in range(0, len(rows), BLOCK):
            own = slice(start, start + BLOCK)
            found.append(compute(own, reader, batches))
            bar.update(min(own.stop, len(rows)) - bar.done)  # of what was kept no batch is made
    return found


def _block(
    resources: Resources,
    reader: Reader,
    batches: Batches,
    rows: Sequence[int],
    columns: Sequence[Sequence[str]],
    spec: ProbeSpec,
) -> Float[Tensor, "t r v"]:
    """Those of a block: each column is read, or computed with all others that are missing."""
    folder, facts = resources.queries, [_facts(resources, rows, column, spec) for column in columns]
    kept = [cache.read(folder, each) for each in facts]
    absent = (column for column, entry in zip(columns, kept, strict=True) if entry is None)
    missing = list(dict.fromkeys(absent))  # words of a kind share columns
    fresh: dict[Sequence[str], Tensor] = {}
    if missing:
        texts = [*zip(*missing, strict=True)]

        def compute(part: Sequence[int]) -> Tensor:
            own, captions = [rows[i] for i in part], [texts[i] for i in part]
            return _losses(resources, reader, own, captions, spec).cpu()

        computed = torch.cat([*batches(len(rows), compute)], 1)
        fresh = dict(zip(missing, computed.unbind(2), strict=True))

    def column_losses(column: Sequence[str], own: Mapping[str, Any]) -> Tensor:
        return cache.remember(folder, own, lambda: {"losses": fresh[column]}).tensors["losses"]

    return torch.stack([*map(column_losses, columns, facts)], 2)


def _facts(
    resources: Resources,
    rows: Sequence[int],
    texts: Sequence[str] | Sequence[Sequence[str]],
    spec: ProbeSpec,
) -> Mapping[str, Any]:
    manifest = resources.index.manifest
    return {
        "caption losses": 1,
        "model": [manifest.model["fingerprint"], manifest.model["dtype"]],
        "data": resources.index.fingerprint,
        "rows": list(rows),
        "texts": list(texts),
        "timesteps": list(spec.timesteps),
        "seed": spec.seed,
    }


def _losses(
    resources: Resources,
    reader: Reader,
    rows: Sequence[int],
    texts: Sequence[Sequence[str]],
    spec: ProbeSpec,
) -> Float[Tensor, "t r v"]:
    parts, places = [], []
    for own, batch in _batches(resources, reader, rows, texts):
        parts.append(losses_under(resources.denoiser, batch, len(texts[0]), spec).transpose(0, 1))
        places += own
    return in_order(torch.cat(parts), places).transpose(0, 1)


def _best(
    resources: Resources,
    reader: Reader,
    rows: Sequence[int],
    texts: Sequence[Sequence[str]],
    course: Course,
    spec: ProbeSpec,
) -> tuple[Bool[Tensor, " r"], int]:
    denoiser, count = resources.denoiser, len(texts[0])
    parts, places, wanted = [], [], 0
    for own, batch in _batches(resources, reader, rows, texts):

        def losses(
            which: list[int], caption: int, t: int, batch: Batch = batch
        ) -> Float[Tensor, " m"]:
            part = _under(batch, which, caption, count)
            return _losses_of(denoiser, part, replace(spec, timesteps=[spec.timesteps[t]]))[0]

        with frozen(denoiser.network), torch.inference_mode():
            best, taken = explained_best(losses, len(own), count, course)
        parts.append(best)
        places += own
        wanted += taken
    return in_order(torch.cat(parts), places), wanted


def _batches(
    resources: Resources, reader: Reader, rows: Sequence[int], texts: Sequence[Sequence[str]]
) -> Iterator[tuple[list[int], Batch]]:
    index = resources.index
    images = [reader.image(index.positions[row]) for row in rows]
    return training_batches(
        resources.denoiser, images, texts, [index.samples[row].id for row in rows]
    )


def _under(batch: Batch, rows: Sequence[int], caption: int, count: int) -> Batch:
    """Rows of a batch of images with `count` captions each, under one of these."""
    condition = batch.condition and batch.condition[[row * count + caption for row in rows]]
    return Batch(batch.x0[list(rows)], condition, [batch.ids[row] for row in rows])


def losses_under(
    denoiser: Denoiser, batch: Batch, count: int, spec: ProbeSpec
) -> Float[Tensor, "t b v"]:
    """The losses of a batch of images that have `count` captions each, under every one of them.

    One caption of each at a time: as many forward passes fit into memory as images do.
    """
    every = range(len(batch.ids))
    columns = [_under(batch, every, caption, count) for caption in range(count)]
    # A path asks for a graph; inference mode does without, in two thirds of the time.
    with frozen(denoiser.network), captions_kept(denoiser), torch.inference_mode():
        return torch.stack([_losses_of(denoiser, column, spec) for column in columns], 2)


def _losses_of(denoiser: Denoiser, batch: Batch, spec: ProbeSpec) -> Float[Tensor, "t b"]:
    probes = image_objectives(denoiser, _NOISED, batch, spec)
    return torch.stack([loss.float() for _, _, loss in probes if loss is not None])
