"""Prompts of several lengths, as encoders that are language models make them.

A row of a condition says the same in every batch, so all are padded to one length, and masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from headwater.models.condition import Condition


def padded(rows: Sequence[Tensor], length: int) -> Condition:
    """Encodings [tokens, width] as `words` [b, length, width], and a `mask` of what is there."""
    words = torch.stack([F.pad(row, (0, 0, 0, length - len(row))) for row in rows])
    counts = torch.tensor([len(row) for row in rows], device=words.device)
    mask = torch.arange(length, device=words.device) < counts[:, None]
    return Condition({"words": words, "mask": mask})


def unpadded(condition: Condition) -> list[Tensor]:
    """Each row at its own length."""
    words, mask = condition.tensors["words"], condition.tensors["mask"]
    counts: list[int] = mask.sum(1).tolist()
    return [row[:count] for row, count in zip(words, counts, strict=True)]


def shortest(condition: Condition) -> tuple[Tensor, Tensor | None]:
    """(words, mask) as long as the longest of these rows; no mask where all are as long."""
    words, mask = condition.tensors["words"], condition.tensors["mask"]
    counts: list[int] = mask.sum(1).tolist()
    words, mask = words[:, : max(counts)], mask[:, : max(counts)]
    return words, None if min(counts) == max(counts) else mask
