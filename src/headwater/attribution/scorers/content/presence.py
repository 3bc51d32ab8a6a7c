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
from itertools import chain

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.captions import require_no_prompts
from headwater.attribution.scorers.content.caption_losses import caption_losses
from headwater.attribution.scorers.content.versions import Kind, Versions
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scores import Scored
from headwater.errors import MethodError
from headwater.features.batch import in_order
from headwater.features.spec import DRAWS, ProbeSpec
from headwater.methods.row import Method
from headwater.models.denoiser import Denoiser
from headwater.queries.concept import Concept
from headwater.queries.query import Description, Question
from headwater.queries.words.alternatives import alternatives_of
from headwater.queries.words.prompts import contains
from headwater.queries.words.token_limit import lost_words, require_read

# Where losses are taken, as shares of the schedule, one draw each (methods/table.py says what that
# costs). On 160 of the scenes, of ten timesteps, objects want little noise (average precision 0.98
# at 0.2 to 0.5, 0.76 at 1.0), backgrounds much (1.00 at 0.9, 0.74 at 0.4). Of objects, styles and
# backgrounds together the best two reach 0.989, these three 0.991, the best four 0.994.
SHARES = (0.3, 0.6, 0.9)
# Of the images whose caption names a value, the share in which it must be seen; of fewer images
# nothing follows.
AGREED, FEWEST = 0.5, 3
# Of the images whose caption names another value of so many, the share in which a value may be the
# next best before it is taken for a word for all of them. On 1,000 scenes "shape" is in 0.84, and
# no true value of a kind in more than 0.40.
GENERAL, MANY = 0.6, 3


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
    named: Bool[Tensor, "n v"]

    def margins(self, word: str) -> Float[Tensor, "t n"]:
        """By how much the word explains each image better than the best other value.

        Which is the best is chosen by the mean over timesteps, so that the mean of the margins is
        the presence. No rivals are values that the caption names beside the word, and those that
        the model does not tell apart, unless there are no others.
        """
        column = self.values.index(word)
        beside = self.named & self.named[:, [column]]
        rivals = ~beside & self.told_apart()
        rivals[:, column] = False
        rivals[~rivals.any(1)] = torch.arange(len(self.values)) != column
        best = self.losses.mean(0).masked_fill(~rivals, torch.inf).argmin(1)
        against = self.losses[:, torch.arange(len(best)), best]
        return against - self.losses[:, :, column]

    def told_apart(self) -> Bool[Tensor, " v"]:
        """Which values the model tells from the others.

        It does not see some where captions name them: those it has not learned. Others are nearly
        right wherever another is right ("shape", where objects are told apart): words for anything
        of the kind. From few images or values nothing follows.
        """
        mean, count = self.losses.mean(0), len(self.values)
        alone = (self.named.sum(1) == 1)[:, None]
        own, others = self.named & alone, ~self.named & alone

        def first(losses: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(losses.argmin(1), count).bool()

        unseen = (own & first(mean)).sum(0) < AGREED * own.sum(0)
        second = (others & first(mean.masked_fill(self.named, torch.inf))).sum(0)
        general = (second > GENERAL * others.sum(0)) & (count > MANY)
        return ~((unseen & (own.sum(0) >= FEWEST)) | general)


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """The presence of a concept in every training image, timestep by timestep.

    Raises:
        MethodError: the model reads no prompts, or the query says how prompts are compared.
    """
    assert isinstance(query, Concept), f"{method.name} takes concepts alone"
    require_no_prompts(query, method.name)
    if query.draws not in (len(SHARES), DRAWS):
        options.note(f"{method.name} draws once at {len(SHARES)} timesteps: --draws has no effect")
    kind = kind_of(resources, query)
    others = kind.others(query.concept)
    unread = _unread(resources, query)
    seen = losses_of(resources, kind, query.concept, query.seed)
    remarks = (*remarks_of(query.concept, kind, seen), *unread)
    where = (
        f"against {', '.join(others)} ({kind.source})" if others else "with and without the word"
    )
    facts = {"alternatives": others, "alternatives from": kind.source, "timesteps": list(SHARES)}
    return Scoring(
        dict.fromkeys(options.dampings, Scored(seen.margins(query.concept))),
        Description(f"in each image's own caption, {where}", facts),
        len(SHARES),
        remarks=remarks,
    )


def kind_of(resources: Resources, query: Concept) -> Kind:
    """The kind of a concept: as the query gives it, else as captions have it."""
    given = query.alternatives
    if given is not None and not given:
        return Kind((query.concept,), "none wanted")
    if given is not None:
        values = tuple(sorted({query.concept, *given}))  # one order for every word of it
        beside = [kind for kind in resources.kinds if not set(kind).isdisjoint(values)]
        places = [word for kind in beside for word in kind if word not in values]
        return Kind(values, "given", tuple(places))
    if values := alternatives_of(query.concept, resources.kinds):
        return Kind(values, "words in the same place of captions")
    return Kind((query.concept,), "captions set no other word in its place")


def presence(resources: Resources, query: Concept) -> Float[Tensor, " n"]:
    """The presence of a concept in every training image, in index order."""
    kind = kind_of(resources, query)
    return losses_of(resources, kind, query.concept, query.seed).margins(query.concept).mean(0)


def losses_of(resources: Resources, kind: Kind, word: str, seed: int = 0) -> Losses:
    """The losses of all images of an index under their captions with each value of a kind.

    Raises:
        MethodError: the model reads no prompts.
    """
    asked = Versions.of(resources, kind, word)
    losses = _computed(resources, asked.groups, asked.texts(range(len(asked.named))), seed)
    if len(kind.values) > 1:
        return Losses(kind.values, losses, asked.named)
    own, changed = losses.unbind(2)
    held = asked.named[:, 0]
    gained = torch.stack([torch.where(held, own, changed), torch.where(held, changed, own)], 2)
    return Losses((word, ""), gained, torch.stack([held, torch.zeros_like(held)], 1))


def prepare(resources: Resources, asked: Sequence[tuple[Kind, str]], seed: int = 0) -> None:
    """Compute what several words need at one go, which opens and encodes every image once."""
    every = [Versions.of(resources, kind, word) for kind, word in asked]
    alike: dict[str, list[Versions]] = {}
    for each in every:
        alike.setdefault(str(each.groups), []).append(each)
    for same in alike.values():
        each = zip(*(one.texts(range(len(one.named))) for one in same), strict=True)
        _computed(resources, same[0].groups, [list(chain(*texts)) for texts in each], seed)


def _computed(
    resources: Resources, groups: Sequence[list[int]], texts: Sequence[Sequence[str]], seed: int
) -> Float[Tensor, "t n v"]:
    denoiser = resources.denoiser
    require_prompts(denoiser)
    spec = timesteps_of(denoiser, seed)
    parts = [caption_losses(resources, rows, [texts[row] for row in rows], spec) for rows in groups]
    order = [row for rows in groups for row in rows]
    return in_order(torch.cat(parts, 1).transpose(0, 1), order).transpose(0, 1)


def require_prompts(denoiser: Denoiser) -> None:
    """Refuse a model that reads none.

    Raises:
        MethodError: so it is.
    """
    if not denoiser.conditional:
        raise MethodError(
            f"{denoiser.source} reads no prompts, so it cannot be asked what it sees by them"
        )


def timesteps_of(denoiser: Denoiser, seed: int = 0) -> ProbeSpec:
    """Where losses are taken of this model: one draw at each of `SHARES` of its schedule."""
    steps = len(denoiser.schedule)
    return ProbeSpec([max(0, round(share * steps) - 1) for share in SHARES], seed)


def remarks_of(word: str, kind: Kind, losses: Losses) -> list[str]:
    """That there are no alternatives, or which of them, and of the word, the model does not see."""
    if not kind.others(word):
        return [
            f"{word!r} has no alternatives here, so its presence is how much the word helps with "
            "each image, which other words may as well: give some with --alternatives"
        ]
    apart = losses.told_apart().tolist()
    unseen = ", ".join(repr(v) for v, yes in zip(losses.values, apart, strict=True) if not yes)
    if not unseen:
        return []
    why = "for anything of the kind, or seldom sees it where it is named"
    return [f"The model takes {unseen} {why}, so nothing is told from it"]


def _unread(resources: Resources, query: Concept) -> Sequence[str]:
    """Refuse a concept that the text encoder never reads; say if it loses words."""
    naming = [text for text in resources.captions if contains(text, query.concept)]
    require_read(resources.denoiser, query.concept, naming or [query.concept])
    return lost_words(resources.denoiser, naming)
