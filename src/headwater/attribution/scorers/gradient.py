"""Gradients of a question, draw by draw, against those of the training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from headwater.attribution.answer.bootstrap import certainty
from headwater.attribution.pictures import training_images
from headwater.attribution.resources import Resources
from headwater.attribution.scorers import feature
from headwater.attribution.scorers.scoring import (
    Asked,
    Scoring,
    ScoringOptions,
    mean_feature,
    release_checkpoint,
    score_all_rows,
)
from headwater.attribution.scores import RULES, Scored, joined, without_own
from headwater.features.extractor import Extractor
from headwater.features.spec import MOST_DRAWS
from headwater.methods.row import Method
from headwater.queries.draws import DrawnRows, draw_rows
from headwater.queries.feature import Feature
from headwater.queries.query import Drawer, Question, Setting

# Rows of a question: by damping of the curvature (None where there is none), member and part.
Drawn = dict[float | None, list[list[DrawnRows]]]
# `draws=None` doubles the draws from the first to the most until the top ten is this stable.
FIRST_DRAWS, STABLE = 16, 0.9


@dataclass
class _Asking:
    """A question that is being asked.

    Attributes:
        left: draws that may still be made.
        made: how many were.
        scored: at each damping, of all that were made; an image on whose picture a draw is asked
            has that draw's score too.
    """

    drawer: Drawer
    left: list[range]
    drawn: Drawn
    made: int = 0
    scored: dict[float, Scored] = field(default_factory=dict)

    def answer(self, damping: float) -> Scored:
        """The scores at one, where no image is asked about on its own picture."""
        return without_own(self.scored[damping], self.drawer.training_rows[: self.made])


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """The method's rule on the question's rows, of as many draws as it asks for or needs."""
    if isinstance(query, Feature):
        return feature.score(resources, method, query, options)
    return score_all(resources, method, [(query, options)])[0]


def score_all(resources: Resources, method: Method, asked: Asked) -> list[Scoring]:
    """The same of several questions, whose rows are scored in one pass over the index."""
    asking = [_begun(resources, method, *each) for each in asked]
    while going := [pair for pair in zip(asking, asked, strict=True) if pair[0].left]:
        for each, (_, options) in going:
            draws = each.left.pop(0)
            _draw(resources, each.drawer, draws, options.fresh, each.drawn)
            each.made = draws.stop
        _score(resources, method, [each for each, _ in going], asked[0][1].dampings)
        for each, (query, options) in going:
            if query.draws is None and _is_enough(each, options):
                each.left = []
    return [_scoring(each, options) for each, (_, options) in zip(asking, asked, strict=True)]


def _begun(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> _Asking:
    images = training_images(resources.index)
    drawer = query.drawer(replace(setting_of(resources, method, query), images=images))
    # In the metric of a curvature a question has other rows at each damping, else at none.
    metrics = options.dampings if method.curvature else (None,)
    drawn: Drawn = {metric: [[] for _ in resources.members] for metric in metrics}
    return _Asking(drawer, _parts(query.draws, drawer), drawn)


def _score(
    resources: Resources, method: Method, asking: Sequence[_Asking], dampings: Sequence[float]
) -> None:
    """Score the draws that are new. A rule that needs the mean of all draws has them all again."""
    whole = RULES[method.rule].unit
    rows = [
        _rows(members) if whole else [parts[-1].rows for parts in members]
        for each in asking
        for members in each.drawn.values()
    ]
    # Rows in different metrics are dotted as they are, at whatever damping.
    ratios = dampings if not method.curvature else dampings[:1]
    found = iter(score_all_rows(resources, method, rows, ratios))
    for each in asking:
        new: dict[float, Scored] = {}
        for metric in each.drawn:
            scored = next(found)
            new |= scored if metric is None else {metric: scored[ratios[0]]}
        before = {} if whole else each.scored
        each.scored = {r: joined(before[r], s) if r in before else s for r, s in new.items()}


def _scoring(asking: _Asking, options: ScoringOptions) -> Scoring:
    drawer, drawn = asking.drawer, asking.drawn
    first = next(iter(drawn.values()))
    cached = all(part.cached for members in drawn.values() for parts in members for part in parts)
    if cached:
        options.note(
            f"{drawer.title}: using the query gradient computed before (--fresh recomputes)"
        )
    remarks = dict.fromkeys(remark for part in first[0] for remark in part.remarks)
    # one row does not stand for a question of which each image has other draws
    feature = None if drawer.training_rows else mean_feature(_rows(first))
    return Scoring(
        {ratio: asking.answer(ratio) for ratio in asking.scored},
        drawer.describe(asking.made),
        asking.made,
        drawer.once,
        cached,
        tuple(remarks),
        feature,
    )


def _rows(members: Sequence[Sequence[DrawnRows]]) -> list[Tensor]:
    return [torch.cat([part.rows for part in parts]) for parts in members]


def setting_of(resources: Resources, method: Method, query: Question) -> Setting:
    """What the question is told of the index.

    A question that inverts is guided as the index's rows were.
    """
    # Whether a model reads prompts is known when it is loaded, which a cached answer need not be.
    prompted = bool(query.prompt.strip())
    if query.kind == "patch":
        prompted = prompted and resources.denoiser.conditional
    side = method.asks(query.kind, prompted)
    assert side is not None, f"{method.name} takes no such question"
    recipe = resources.index.recipe
    if side.path == "inversion":
        side = replace(side, guidance=recipe.inversion_guidance)
    return Setting(
        method.name,
        side,
        resources.captions,
        recipe.timesteps,
        resources.picture,
        resources.queries,
    )


def _parts(draws: int | None, drawer: Drawer) -> list[range]:
    """The draws to make, part by part; those after the first only if needed."""
    if drawer.limit is not None:
        return [range(drawer.limit)]
    if draws is not None:
        return [range(draws)]
    stops = [FIRST_DRAWS]
    while stops[-1] < MOST_DRAWS:
        stops.append(2 * stops[-1])
    return [range(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def _draw(
    resources: Resources,
    drawer: Drawer,
    draws: range,
    fresh: bool,
    drawn: Drawn,
) -> None:
    """Add the rows of these draws, by each checkpoint's model in turn."""
    for number, member in enumerate(resources.members):
        kept = {metric: member.row_cache(fresh, metric) for metric in drawn}
        rows = draw_rows(partial(_extractor, member), drawer, draws, kept, member.needed)
        for metric, members in drawn.items():
            members[number].append(rows[metric])
        release_checkpoint(resources, member)


def _extractor(resources: Resources, metrics: Sequence[float | None]) -> Extractor:
    extractor = resources.extractor(metrics)
    assert isinstance(extractor, Extractor), "methods of gradients have an index of gradients"
    return extractor


def _is_enough(asking: _Asking, options: ScoringOptions) -> bool:
    """Whether the top ten is stable, or there are no more draws to make; says so."""
    sure = certainty(asking.answer(options.dampings[0]), among=options.among)
    if sure is None or (sure.stability < STABLE and asking.left):
        return False
    options.note(
        f"{asking.drawer.title}: {asking.made} draws, on average an image of the top {sure.k} "
        f"stays there in {sure.stability:.0%} of resamples"
    )
    return True
