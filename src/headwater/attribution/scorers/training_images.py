"""The training images of an index, for scorers that look at each of them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import PIL.Image

from headwater.attribution.resources import Resources
from headwater.features.batch import Batch, training_batches


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
