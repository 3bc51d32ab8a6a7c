"""The training images of an index, for scorers that look at each of them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.data.prefetch import reading
from headwater.features.batch import Batch, in_order, training_batches
from headwater.runtime.batch_size import BatchSize
from headwater.runtime.progress import ProgressBar

Result = TypeVar("Result")


def batches_of(
    resources: Resources, image: Callable[[int], PIL.Image.Image], rows: Sequence[int]
) -> Iterator[tuple[list[int], Batch]]:
    """These rows of an index as batches, one for each bucket: places among the rows, and images.

    Args:
        image: opens a row of the data set.
    """
    index = resources.index
    samples = [index.samples[row] for row in rows]
    images = [image(index.positions[row]) for row in rows]
    captions, ids = [s.all_captions for s in samples], [s.id for s in samples]
    return training_batches(resources.denoiser, images, captions, ids)


def over_training_images(
    resources: Resources,
    compute: Callable[[Batch], Float[Tensor, "b ..."]],
    batch_size: int | None = None,
    title: str = "losses",
) -> Float[Tensor, "n ..."]:
    """What is computed of the training images batch by batch, in index order, on the CPU."""
    batch = BatchSize(batch_size, device=resources.denoiser.device)
    with reading(resources.index.pictures) as reader:

        def of_rows(rows: Sequence[int]) -> Tensor:
            parts, places = [], []
            for own, images in batches_of(resources, reader.image, rows):
                parts.append(compute(images))
                places += own
            return in_order(torch.cat(parts), places).cpu()

        return torch.cat(list(in_batches(batch, range(len(resources.index)), of_rows, title)))


def in_batches(
    batch: BatchSize,
    rows: Sequence[int],
    compute: Callable[[Sequence[int]], Result],
    title: str,
) -> Iterator[Result]:
    """Results of `compute` batch by batch, with a bar."""
    with ProgressBar(total=len(rows), desc=title, unit="image") as bar:
        for count, result in batch.over(rows, lambda part: (len(part), compute(part))):
            bar.update(count)
            yield result
