"""Influence and presence in one score: what the curvature says of an image, and what is seen in it.

    score(i) = s(influence_i) + s(named_i - 2 unnamed_i),

with s to standard deviation 1 over all images; 0 stays 0. `named`: the caption names the concept.
`unnamed`: the model sees it (`presence`), and the caption names nothing of its kind: such images
teach the model to draw it without the word, so that the word gains less. On a model that had no
part in finding it, it predicts what a concept's words gain better than either alone
(docs/results.md, "The second model"; of the loss it does not).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.attribution.scorers import gradient
from headwater.attribution.scorers.content.presence import kind_of, remarks_of
from headwater.attribution.scorers.content.unnamed import MOST, Shown, shown
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scores import Scored
from headwater.methods.row import Method
from headwater.queries.outputs.output import Contribution
from headwater.queries.query import Question

# Weight of an image that shows the concept and does not say so; one that says so has 1.
UNNAMED = -2.0


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """The sum of both, each on a scale of its own; the draws are those of the influence.

    Raises:
        MethodError: the model reads no prompts.
    """
    return score_all(resources, method, [(query, options)])[0]


def score_all(resources: Resources, method: Method, asked: gradient.Asked) -> list[Scoring]:
    """The same of several questions, whose rows are scored in one pass over the index."""
    own = method.damping  # which images are looked at is the same at any that is asked
    both = [(query, _at_too(options, own)) for query, options in asked]
    influences = gradient.score_all(resources, method, both)
    return [
        _with_presence(resources, query, options, influence, own)
        for (query, options), influence in zip(asked, influences, strict=True)
    ]


def _at_too(options: ScoringOptions, damping: float) -> ScoringOptions:
    return replace(options, dampings=tuple(dict.fromkeys((*options.dampings, damping))))


def _with_presence(
    resources: Resources,
    query: Question,
    options: ScoringOptions,
    influence: Scoring,
    damping: float,
) -> Scoring:
    assert isinstance(query, Contribution), "contributions alone are taken"
    kind = kind_of(resources, query.slider)
    # who shows it and does not say so teaches to draw it without the word: an opponent, mostly
    likely = -influence.scored[damping].answer()[0].double()
    if options.among is not None:  # of what does not compete last
        competes = torch.zeros(len(likely), dtype=torch.bool)
        competes[list(options.among)] = True
        likely = likely.masked_fill(~competes, -torch.inf)
    found = shown(resources, kind, query.concept, query.seed, likely)
    seen = scaled(found.named.double() + UNNAMED * found.unnamed.double())
    scored = {ratio: _together(influence.scored[ratio], seen) for ratio in options.dampings}
    told = {"alternatives": kind.others(query.concept), "alternatives from": kind.source}
    facts = {**influence.description.facts, "with": "presence", **told}
    described = influence.description._replace(
        words=f"{influence.description.words}, and what the model sees in each image", facts=facts
    )
    # a row of the question would stand for the influence alone
    remarks = (
        *influence.remarks,
        *remarks_of(query.concept, kind, found.sample),
        *_found_where(found, query.concept),
    )
    return replace(influence, scored=scored, description=described, feature=None, remarks=remarks)


def _found_where(found: Shown, word: str) -> list[str]:
    """That not all images were looked at, and which were; that it is everywhere, or nowhere."""
    said = []
    if found.named.all():
        said.append(
            f"Every caption names {word!r}, which tells no image from another: scores are of the "
            "influence alone"
        )
    if found.passed_over:
        said.append(
            f"Of the images whose captions name nothing of the kind the {MOST:,} with the lowest "
            f"influence were looked at for what they show, {found.passed_over:,} were not"
        )
    if not (found.named | found.unnamed).any():
        said.append(
            f"No caption names {word!r}, and the model sees it in no image: scores are of the "
            "influence alone"
        )
    return said


def scaled(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """To standard deviation 1; zeros stay zeros. What is the same of all tells none apart: zeros.

    >>> scaled(torch.tensor([1.0, 0.0, 0.0, -1.0]).double() * 3).tolist()[1:3]
    [0.0, 0.0]
    >>> scaled(torch.ones(2)).tolist()  # every caption names it
    [0.0, 0.0]
    """
    if (values == values[:1]).all():
        return torch.zeros_like(values)
    return values / values.std(correction=0)


def _together(influence: Scored, seen: Float[Tensor, " n"]) -> Scored:
    """Each draw in the measure of their mean, and what is seen added to each."""
    spread = influence.answer()[0].double().std(correction=0)
    draws = influence.draws.double() / (spread if spread > 0 else 1.0)  # 0: of a single image
    return Scored((draws + seen).float(), influence.squared)
