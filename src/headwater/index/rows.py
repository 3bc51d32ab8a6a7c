"""Training images -> feature rows: open, encode, extract, and refuse what is no number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headwater.data.prefetch import Reader
from headwater.data.training_set import TrainingSet
from headwater.errors import BadImageError, NonFiniteError
from headwater.features.batch import Rows
from headwater.index.machines import Machine
from headwater.runtime.batch_size import BatchSize


@dataclass(frozen=True)
class Source:
    """Where rows come from. `encodings`: a folder that keeps the encoders' outputs, or None."""

    machine: Machine
    data: TrainingSet
    reader: Reader
    encodings: str | Path | None = None


def shard_rows(
    source: Source,
    rows: Sequence[int],
    batch: BatchSize,
    skip_bad: bool,
    tick: Callable[[int], Any],
) -> tuple[Rows, list[int], list[str]]:
    """Features of one shard's rows, the rows that are in it, and the ids that were skipped.

    Rows before the first picture that can be read are in no batch: the batch size is measured on
    the first row of one.
    """
    made: list[Rows] = []
    good: list[int] = []
    rows, skipped = _without_bad_start(source, rows) if skip_bad else (rows, [])
    tick(len(skipped))

    def compute(part: Sequence[int]) -> tuple[Rows | None, list[int], list[str]]:
        opened, bad = open_images(source, part, skip_bad)
        return rows_of(source, opened) if opened else None, list(opened), bad

    for computed, opened, bad in batch.over(rows, compute):
        made += [computed] if computed is not None else []
        good += opened
        skipped += bad
        tick(len(opened) + len(bad))
    features = torch.cat([torch.zeros(0, source.machine.dim), *(each.features for each in made)])
    residuals = [each.residuals for each in made if each.residuals is not None]
    return Rows(features, torch.cat(residuals) if residuals else None), good, skipped


def _without_bad_start(source: Source, rows: Sequence[int]) -> tuple[Sequence[int], list[str]]:
    """The rows from the first on that is a picture, and the ids of those before it."""
    bad: list[str] = []
    for start, row in enumerate(rows):
        opened, ids = open_images(source, [row], skip_bad=True)
        bad += ids
        if opened:
            return rows[start:], bad
    return rows[len(rows) :], bad


def open_images(
    source: Source, rows: Sequence[int], skip_bad: bool
) -> tuple[dict[int, Image.Image], list[str]]:
    """Row -> picture for the rows that are pictures, and the ids of those that are not."""
    opened, bad = {}, []
    for row in rows:
        try:
            opened[row] = source.reader.image(row)
        except BadImageError:
            if not skip_bad:
                raise
            bad.append(source.data.samples[row].id)
    return opened, bad


def rows_of(source: Source, images: Mapping[int, Image.Image]) -> Rows:
    """Features of these pictures, on the CPU.

    Raises:
        NonFiniteError: names the ids whose features are NaN, infinite or all zero.
    """
    samples = [source.data.samples[row] for row in images]
    captions, ids = [s.all_captions for s in samples], [s.id for s in samples]
    encodings = None if source.encodings is None else Path(source.encodings)
    made = source.machine.image_rows(list(images.values()), captions, ids, encodings)
    features, residuals = made.features.cpu(), made.residuals
    require_finite(features, ids)
    return Rows(features, None if residuals is None else residuals.float().cpu())


def require_finite(features: Float[Tensor, "b k"], ids: Sequence[str]) -> None:
    """Refuse rows that are NaN, infinite or all zero.

    Raises:
        NonFiniteError: names up to five of the ids.
    """
    wrong = ~features.isfinite().all(1) | (features == 0).all(1)
    if wrong.any():
        names = [id for id, bad in zip(ids, wrong.tolist(), strict=True) if bad]
        raise NonFiniteError(
            f"{len(names)} input(s) gave a NaN, infinite or all-zero feature row: "
            f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}; look at these inputs, "
            "and compute in float32 if the model ran in half precision"
        )
