"""Gradients of a question, draw by draw, against those of the training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from headwater.attribution.bootstrap import certainty
from headwater.attribution.resources import Resources
from headwater.attribution.scorers import feature
from headwater.attribution.scorers.scoring import (
    Scoring,
    ScoringOptions,
    mean_feature,
    release_checkpoint,
    score_rows,
)
from headwater.attribution.scores import Scored
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


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """The method's rule on the question's rows, of as many draws as it asks for or needs."""
    if isinstance(query, Feature):
        return feature.score(resources, method, query, options)
    drawer = query.drawer(setting_of(resources, method, query))
    # In the metric of a curvature a question has other rows at each damping, else at none.
    metrics = options.dampings if method.curvature else (None,)
    drawn: Drawn = {metric: [[] for _ in resources.members] for metric in metrics}
    for draws in _parts(query.draws, drawer):
        _draw(resources, drawer, draws, options.fresh, drawn)
        scored: dict[float, Scored] = {}
        for metric, members in drawn.items():
            dampings = options.dampings if metric is None else (metric,)
            scored |= score_rows(resources, method, _rows(members), dampings)
        if query.draws is None and _is_enough(scored[options.dampings[0]], draws, drawer, options):
            break
    first = drawn[metrics[0]]
    cached = all(part.cached for members in drawn.values() for parts in members for part in parts)
    if cached:
        options.note(
            f"{drawer.title}: using the query gradient computed before (--fresh recomputes)"
        )
    remarks = dict.fromkeys(remark for part in first[0] for remark in part.remarks)
    return Scoring(
        scored,
        drawer.describe(draws.stop),
        draws.stop,
        drawer.once,
        cached,
        tuple(remarks),
        mean_feature(_rows(first)),
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
        rows = draw_rows(partial(_extractor, member), drawer, draws, kept)
        for metric, members in drawn.items():
            members[number].append(rows[metric])
        release_checkpoint(resources, member)


def _extractor(resources: Resources, metrics: Sequence[float | None]) -> Extractor:
    extractor = resources.extractor(metrics)
    assert isinstance(extractor, Extractor), "methods of gradients have an index of gradients"
    return extractor


def _is_enough(scored: Scored, draws: range, drawer: Drawer, options: ScoringOptions) -> bool:
    """Whether the top ten is stable, or there are no more draws to make; says so."""
    sure = certainty(scored, among=options.among)
    if sure is None or (sure.stability < STABLE and draws.stop < MOST_DRAWS):
        return False
    options.note(
        f"{drawer.title}: {draws.stop} draws, on average an image of the top {sure.k} stays there "
        f"in {sure.stability:.0%} of resamples"
    )
    return True
