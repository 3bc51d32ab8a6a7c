"""What the model's own training loss of an image would be under other captions.

    loss(z, c; t, e) = mean square of out(a x0 + s e, t, c) - (p x0 + q e)

The noise belongs to (seed, image, t), so that all captions of an image are compared at the same
points. What was computed is kept by content, a file for each block of images and each column of
captions: an interruption loses no more than a block, and a question that shares captions with an
earlier one computes the others alone. Forward passes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headwater.attribution.resources import Resources
from headwater.data.prefetch import Reader, reading
from headwater.features.batch import Batch, in_order, training_batches
from headwater.features.objectives import image_objectives
from headwater.features.spec import ProbeSpec, Side
from headwater.models.denoiser import Denoiser
from headwater.models.patches import captions_kept, frozen
from headwater.runtime.batch_size import BatchSize
from headwater.storage import cache

BLOCK = 128  # images of a file

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
    index = resources.index
    index.require_same_images()
    batch = BatchSize(None, device=resources.denoiser.device)
    blocks, positions = [], sorted(index.positions[row] for row in rows)
    with (
        reading(index.pictures, positions) as reader,
        tqdm(
            total=len(rows), desc="losses under captions", unit="image", delay=2, leave=False
        ) as bar,
    ):
        for start in range(0, len(rows), BLOCK):
            own = rows[start : start + BLOCK]
            columns = [*zip(*texts[start : start + BLOCK], strict=True)]
            blocks.append(_block(resources, reader, batch, own, columns, spec))
            bar.update(len(own))
    return torch.cat(blocks, 1)


def _block(
    resources: Resources,
    reader: Reader,
    batch: BatchSize,
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

        computed = torch.cat([*batch.over(range(len(rows)), compute)], 1)
        fresh = dict(zip(missing, computed.unbind(2), strict=True))

    def column_losses(column: Sequence[str], own: Mapping[str, Any]) -> Tensor:
        return cache.remember(folder, own, lambda: {"losses": fresh[column]}).tensors["losses"]

    return torch.stack([*map(column_losses, columns, facts)], 2)


def _facts(
    resources: Resources, rows: Sequence[int], texts: Sequence[str], spec: ProbeSpec
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
    index, denoiser = resources.index, resources.denoiser
    images = [reader.image(index.positions[row]) for row in rows]
    ids = [index.samples[row].id for row in rows]
    parts, places = [], []
    for own, batch in training_batches(denoiser, images, texts, ids):
        parts.append(losses_under(denoiser, batch, len(texts[0]), spec).transpose(0, 1))
        places += own
    return in_order(torch.cat(parts), places).transpose(0, 1)


def losses_under(
    denoiser: Denoiser, batch: Batch, count: int, spec: ProbeSpec
) -> Float[Tensor, "t b v"]:
    """The losses of a batch of images that have `count` captions each, under every one of them.

    One caption of each at a time: as many forward passes fit into memory as images do.
    """
    every = range(len(batch.ids) * count)
    columns = [
        Batch(batch.x0, batch.condition and batch.condition[every[own::count]], batch.ids)
        for own in range(count)
    ]
    # A path asks for a graph; inference mode does without, in two thirds of the time.
    with frozen(denoiser.network), captions_kept(denoiser), torch.inference_mode():
        return torch.stack([_losses_of(denoiser, column, spec) for column in columns], 2)


def _losses_of(denoiser: Denoiser, batch: Batch, spec: ProbeSpec) -> Float[Tensor, "t b"]:
    probes = image_objectives(denoiser, _NOISED, batch, spec)
    return torch.stack([loss.float() for _, _, loss in probes if loss is not None])
