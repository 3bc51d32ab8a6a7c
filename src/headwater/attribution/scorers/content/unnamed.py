"""Which images show a concept: their captions say so, or say nothing and the model sees it there.

What `presence` tells by all its losses, for a fraction of them: of an image whose caption names
nothing of the kind it is only asked whether the presence is above 0. So it is done with at the
first other value that clearly explains it better than the word does (`sequential`). Whether the
model tells a value from the others, and what is clear, is found on a few of the images whose
captions name a value. Of many images those are looked at that most likely count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headwater.attribution.answer.result import leading
from headwater.attribution.resources import Resources
from headwater.attribution.scorers.content.caption_losses import best_caption, caption_losses
from headwater.attribution.scorers.content.presence import (
    SHARES,
    Losses,
    require_prompts,
    timesteps_of,
)
from headwater.attribution.scorers.content.sequential import course_of
from headwater.attribution.scorers.content.versions import Kind, Versions
from headwater.queries.words.prompts import contains
from headwater.storage import cache

# Of the images whose caption names a value and no other, how many are looked at.
SAMPLE = 8
# Of those whose caption names no value, how many: a question about a hundred thousand images would
# else take longer than their index.
MOST = 2_000


@dataclass(frozen=True)
class Shown:
    """Where a word's concept is, of n images.

    Attributes:
        named: the caption names it.
        unnamed: the model sees it, and the caption names nothing of its kind.
        sample: losses of some images whose captions name a value of the kind; of none where there
            is no image whose caption does not.
        losses: how many were wanted: of an image, under a caption, at a timestep.
        passed_over: how many images whose caption names nothing of the kind were not looked at.
    """

    named: Bool[Tensor, " n"]
    unnamed: Bool[Tensor, " n"]
    sample: Losses
    losses: int
    passed_over: int = 0


def shown(
    resources: Resources,
    kind: Kind,
    word: str,
    seed: int = 0,
    likely: Float[Tensor, " n"] | None = None,
) -> Shown:
    """Where a word's concept is among the images of an index.

    What was found is kept by content: what was asked before needs neither model nor images.

    Args:
        likely: where there are more than `MOST` images to look at, those where this is highest are.

    Raises:
        MethodError: the model reads no prompts.
    """
    asked = Versions.of(resources, kind, word)
    silent = torch.nonzero(~asked.named.any(1)).flatten()
    left = _highest(silent, likely)
    few = sample_of(asked.named) if len(left) and kind.others(word) else []
    facts = {
        "shown": 2,
        "model": [resources.index.manifest.model[each] for each in ("fingerprint", "dtype")],
        "data": resources.index.fingerprint,
        "values": [word, *kind.values],
        "rows": [left.tolist(), few],
        "texts": cache.key(asked.texts([*left.tolist(), *few])),
        "shares": list(SHARES),
        "seed": seed,
    }
    kept = cache.remember(
        resources.queries, facts, lambda: look(resources, asked, (kind, word), (left, few), seed)
    )
    unnamed = torch.zeros(len(asked.named), dtype=torch.bool)
    unnamed[left] = kept.tensors["seen"]
    sample = Losses(kind.values, kept.tensors["sample"], asked.named[few])
    named = [
        any(contains(text, word) for text in each.all_captions) for each in resources.index.samples
    ]
    passed_over = len(silent) - len(left)
    return Shown(torch.tensor(named), unnamed, sample, kept.note["losses"], passed_over)


def look(
    resources: Resources,
    asked: Versions,
    what: tuple[Kind, str],
    rows: tuple[Int[Tensor, " r"], Sequence[int]],
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """In which of these images the model sees the word, by the losses that this takes.

    Args:
        asked: what all images are captioned with.
        what: the kind, and the word.
        rows: those looked at, and the sample that tells which values the model tells apart.

    Returns:
        "seen" [r] and the losses of the "sample" [t, s, v]; how many losses were wanted.
    """
    require_prompts(resources.denoiser)
    spec = timesteps_of(resources.denoiser, seed)
    (kind, word), (left, few) = what, rows
    table = torch.empty(len(spec.timesteps), 0, len(kind.values))
    if few:
        table = caption_losses(resources, few, asked.texts(few), spec)
    sample = Losses(kind.values, table, asked.named[list(few)])
    own = kind.values.index(word)
    rivals = rivals_of(own, sample.told_apart(), asked.named)
    if not rivals:  # the versions are the caption, and the same with the word
        own, rivals = 1, [0]
    texts = [[each[value] for value in (own, *rivals)] for each in asked.texts(left.tolist())]
    seen, wanted = best_caption(
        resources, left.tolist(), texts, course_of(told_margins(sample)), spec
    )
    return {"seen": seen, "sample": table}, {"losses": wanted + table.numel()}


def told_margins(sample: Losses) -> Float[Tensor, "t m"]:
    """Of each value that a caption names alone, over each other one; of those told apart."""
    apart, alone = sample.told_apart(), sample.named.sum(1) == 1
    margins = [torch.empty(len(sample.losses), 0, dtype=torch.float64)]
    for value in torch.nonzero(apart).flatten().tolist():
        others = apart.clone()
        others[value] = False
        own = sample.losses[:, sample.named[:, value] & alone].double()
        margins.append((own[..., others] - own[..., [value]]).flatten(1))
    return torch.cat(margins, 1)


def _highest(rows: Int[Tensor, " r"], likely: Float[Tensor, " n"] | None) -> Int[Tensor, " m"]:
    """At most `MOST` of these rows, in their order."""
    if len(rows) <= MOST:
        return rows
    order = torch.zeros(len(rows)) if likely is None else likely[rows]
    return rows[torch.from_numpy(np.sort(leading(order.numpy(), MOST)))]


def rivals_of(own: int, apart: Bool[Tensor, " v"], named: Bool[Tensor, "n v"]) -> list[int]:
    """What a value is told from: as `Losses.margins`, those first that most captions name.

    They are the most likely to be right, and end the search.

    >>> named = torch.tensor([[1, 0, 0], [0, 0, 1]]).bool()
    >>> rivals_of(0, torch.tensor([True, True, True]), named)
    [2, 1]
    """
    others = [value for value in range(len(apart)) if value != own]
    rivals = [value for value in others if apart[value]] or others
    return sorted(rivals, key=lambda value: -int(named[:, value].sum()))


def sample_of(named: Bool[Tensor, "n v"]) -> list[int]:
    """For each value up to `SAMPLE` rows that name it alone, evenly spread.

    >>> sample_of(torch.eye(2).bool().repeat_interleave(40, 0))[:4]
    [0, 5, 10, 15]
    """
    alone = named & (named.sum(1) == 1)[:, None]
    chosen: set[int] = set()
    for column in alone.T:
        rows = torch.nonzero(column).flatten().tolist()
        count = min(SAMPLE, len(rows))
        chosen.update(rows[number * len(rows) // count] for number in range(count))
    return sorted(chosen)
