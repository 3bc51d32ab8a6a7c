r"""Presence: what the model itself sees in an image, by its own error under captions.

A diffusion classifier (Li et al. 2023, eq. 5) of the training images. With loss(z, c) the model's
training loss of image z under the caption c, the gain of a word is

    gain(z; w) = E_{t,e}[loss(z, c-) - loss(z, c+)],

where c+ is the image's own caption with the word w and c- without. Many words help the model with
many images; what tells is which helps most. Where a word has alternatives, other values of its
kind, and c_v is the own caption with the attribute set to v, c- falls out of

    presence(z; w) = gain(z; w) - max_{v != w} gain(z; v)
                   = min_{v != w} loss(z, c_v) - loss(z, c_w).

All losses of an image are at the same (t, e). Above 0 the model sees w. This is what an image
shows, not what it taught the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.caption_losses import caption_losses
from headwater.attribution.scorers.captions import require_no_prompts
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scores import Scored
from headwater.data.training_set import Sample
from headwater.errors import MethodError
from headwater.features.spec import DRAWS, ProbeSpec
from headwater.methods.row import Method
from headwater.models.denoiser import Denoiser
from headwater.queries.concept import Concept
from headwater.queries.query import Description, Question
from headwater.queries.words.alternatives import alternatives_of, mine_kinds
from headwater.queries.words.prompts import contains, without
from headwater.queries.words.replacements import Insertions, exchanged
from headwater.queries.words.token_limit import lost_words, require_read

# Of each image, one at each of as many timesteps (methods/table.py says what that costs).
TIMESTEPS = 4


@dataclass(frozen=True)
class Kind:
    """The values that a word is told from.

    Attributes:
        values: the word among them; the word alone where it has no alternatives.
        source: where they come from, in words.
    """

    values: tuple[str, ...]
    source: str

    def others(self, word: str) -> list[str]:
        """The alternatives of a word."""
        return [value for value in self.values if value != word]


@dataclass(frozen=True)
class Losses:
    """The losses of n images under their captions with each value of a kind.

    Attributes:
        values: the kind's; of a word without alternatives the word, and "" for captions without it.
        losses: at each timestep.
        named: whether the caption holds a value.
    """

    values: tuple[str, ...]
    losses: Float[Tensor, "t n v"]
    named: Tensor

    def margins(self, word: str) -> Float[Tensor, "t n"]:
        """By how much the word explains each image better than the best other value.

        Which is the best is chosen by the mean over timesteps, so that the mean of the margins is
        the presence. Values that the caption names beside the word are no rivals of it.
        """
        column = self.values.index(word)
        beside = self.named & self.named[:, [column]]
        rivals = ~beside
        rivals[:, column] = False
        rivals[~rivals.any(1)] = torch.arange(len(self.values)) != column
        best = self.losses.mean(0).masked_fill(~rivals, torch.inf).argmin(1)
        against = self.losses[:, torch.arange(len(best)), best]
        return against - self.losses[:, :, column]


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """The presence of a concept in every training image, timestep by timestep.

    Raises:
        MethodError: the model reads no prompts, or the query says how prompts are compared.
    """
    assert isinstance(query, Concept), f"{method.name} takes concepts alone"
    require_no_prompts(query, method.name)
    if query.draws not in (TIMESTEPS, DRAWS):
        options.note(f"{method.name} draws once at {TIMESTEPS} timesteps: --draws has no effect")
    kind = kind_of(resources.captions, query)
    seen = losses_of(resources, kind, query.concept, query.seed)
    others = kind.others(query.concept)
    where = (
        f"against {', '.join(others)} ({kind.source})" if others else "with and without the word"
    )
    facts = {"alternatives": others, "alternatives from": kind.source, "timesteps": TIMESTEPS}
    return Scoring(
        dict.fromkeys(options.dampings, Scored(seen.margins(query.concept))),
        Description(f"in each image's own caption, {where}", facts),
        TIMESTEPS,
        remarks=(*_remarks(query.concept, others), *_unread(resources.denoiser, query, resources)),
    )


def kind_of(captions: Sequence[str], query: Concept) -> Kind:
    """The kind of a concept: as the query gives it, else as captions have it."""
    if query.alternatives is not None:
        values = sorted({query.concept, *query.alternatives})  # one order for every word of it
        return Kind(tuple(values), "given" if len(values) > 1 else "none wanted")
    values = alternatives_of(query.concept, mine_kinds(captions))
    if values:
        return Kind(values, "words in the same place of captions")
    return Kind((query.concept,), "captions set no other word in its place")


def presence(resources: Resources, query: Concept) -> Float[Tensor, " n"]:
    """The presence of a concept in every training image, in index order."""
    kind = kind_of(resources.captions, query)
    return losses_of(resources, kind, query.concept, query.seed).margins(query.concept).mean(0)


def losses_of(resources: Resources, kind: Kind, word: str, seed: int = 0) -> Losses:
    """The losses of all images of an index under their captions with each value of a kind.

    Images whose caption names several values stand in blocks of their own, since which of these is
    exchanged depends on the word: all others are kept for every word of the kind.

    Raises:
        MethodError: the model reads no prompts.
    """
    denoiser, samples = resources.denoiser, resources.index.samples
    if not denoiser.conditional:
        raise MethodError(
            f"{denoiser.source} reads no prompts, so it cannot be asked what it sees by them"
        )
    insert = Insertions(resources.captions, kind.values)
    own = [caption_of(sample, kind.values) for sample in samples]
    named = torch.tensor([[contains(text, value) for value in kind.values] for text in own])
    texts = [
        versions(text, kind.values, word, [*compress(kind.values, names)], insert)
        for text, names in zip(own, named.tolist(), strict=True)
    ]
    spec = ProbeSpec(denoiser.schedule.evenly_spaced(TIMESTEPS), seed)
    several = named.sum(1) > 1
    order = [*(~several).nonzero()[:, 0].tolist(), *several.nonzero()[:, 0].tolist()]
    found = [
        caption_losses(resources, rows, [texts[row] for row in rows], spec)
        for rows in (order[: int((~several).sum())], order[int((~several).sum()) :])
        if rows
    ]
    losses = torch.empty_like(joined := torch.cat(found, 1))
    losses[:, order] = joined
    if len(kind.values) > 1:
        return Losses(kind.values, losses, named)
    return Losses((word, ""), losses, torch.cat([named, torch.zeros_like(named)], 1))


def caption_of(sample: Sample, values: Sequence[str]) -> str:
    """The caption to change: the first that names a value, else the first."""
    naming = (
        text for text in sample.all_captions if any(contains(text, value) for value in values)
    )
    return next(naming, sample.caption)


def versions(
    caption: str, values: Sequence[str], word: str, named: Sequence[str], insert: Insertions
) -> list[str]:
    """The caption with each value in the place of the one that it names.

    Where it names none, with each value put in; where it names several, of those that are not the
    word the first is exchanged. A word without alternatives stands against the caption without it.
    """
    if len(values) == 1:
        return [caption, without(caption, word)] if named else [insert(caption, word), caption]
    if not named:
        return [insert(caption, value) for value in values]
    place = word if word in named else named[0]
    return [caption if v in named else exchanged(caption, place, v) for v in values]


def _remarks(word: str, others: Sequence[str]) -> list[str]:
    if others:
        return []
    return [
        f"{word!r} has no alternatives here, so its presence is how much the word helps with each "
        "image, which other words may as well: give some with --alternatives"
    ]


def _unread(denoiser: Denoiser, query: Concept, resources: Resources) -> Sequence[str]:
    """Refuse a concept that the text encoder never reads; say if it loses words."""
    naming = [text for text in resources.captions if contains(text, query.concept)]
    require_read(denoiser, query.concept, naming or [query.concept])
    return lost_words(denoiser, naming)
