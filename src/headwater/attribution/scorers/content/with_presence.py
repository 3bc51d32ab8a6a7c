"""Influence and presence in one score: what the curvature says of an image, and what is seen in it.

    score(i) = z(influence_i) + z(named_i - 2 unnamed_i),

with z to mean 0 and standard deviation 1 over all images. `named`: the caption names the concept.
`unnamed`: the model sees it (`presence`), and the caption names nothing of its kind: such images
teach the model to draw it without the word, so that the word gains less. On a model that had no
part in finding it, it predicts what a concept's words gain better than either alone
(docs/results.md, "The second model"; of the loss it does not).
"""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.attribution.scorers import gradient
from headwater.attribution.scorers.content.presence import (
    kind_of,
    remarks_of,
    require_prompts,
)
from headwater.attribution.scorers.content.unnamed import MOST, Shown, shown
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scores import TINY, Scored
from headwater.errors import QueryError
from headwater.methods.row import Method
from headwater.queries.outputs.output import Contribution
from headwater.queries.query import Question

# Weight of an image that shows the concept and does not say so; one that says so has 1.
UNNAMED = -2.0


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """The sum of both, standardised; the draws are those of the influence.

    Raises:
        QueryError: no caption names the concept, and the model sees it nowhere.
        MethodError: the model reads no prompts.
    """
    return score_all(resources, method, [(query, options)])[0]


def score_all(resources: Resources, method: Method, asked: gradient.Asked) -> list[Scoring]:
    """The same of several questions, whose rows are scored in one pass over the index."""
    require_prompts(resources.denoiser)
    influences = gradient.score_all(resources, method, asked)
    return [
        _with_presence(resources, query, influence)
        for (query, _), influence in zip(asked, influences, strict=True)
    ]


def _with_presence(resources: Resources, query: Question, influence: Scoring) -> Scoring:
    assert isinstance(query, Contribution), "contributions alone are taken"
    kind = kind_of(resources, query.slider)
    first, *_ = influence.scored.values()
    # who shows it and does not say so teaches to draw it without the word: an opponent, mostly
    found = shown(resources, kind, query.concept, query.seed, -first.answer()[0].double())
    seen = standard(_weights(found, query.concept))
    scored = {ratio: _together(each, seen) for ratio, each in influence.scored.items()}
    told = {"alternatives": kind.others(query.concept), "alternatives from": kind.source}
    facts = {**influence.description.facts, "with": "presence", **told}
    described = influence.description._replace(
        words=f"{influence.description.words}, and what the model sees in each image", facts=facts
    )
    # a row of the question would stand for the influence alone
    remarks = (
        *influence.remarks,
        *remarks_of(query.concept, kind, found.sample),
        *_passed_over(found),
    )
    return replace(influence, scored=scored, description=described, feature=None, remarks=remarks)


def _passed_over(found: Shown) -> list[str]:
    """That not all images were looked at, and which were."""
    if not found.passed_over:
        return []
    return [
        f"Of the images whose captions name nothing of the kind the {MOST:,} with the lowest "
        f"influence were looked at for what they show, {found.passed_over:,} were not"
    ]


def _weights(found: Shown, word: str) -> Float[Tensor, " n"]:
    """1 for images whose caption names the word, `UNNAMED` for others in which it is seen."""
    weights = found.named.double() + UNNAMED * found.unnamed.double()
    if not weights.any():
        raise QueryError(
            f"no caption names {word!r}, and the model sees it in no image: ask by --method ekfac"
        )
    return weights


def standard(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """To mean 0 and standard deviation 1.

    >>> import torch
    >>> standard(torch.tensor([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """
    return (values - values.mean()) / values.std(correction=0).clamp_min(TINY)


def _together(influence: Scored, seen: Float[Tensor, " n"]) -> Scored:
    """Each draw in the measure of their mean, and what is seen added to each."""
    answer = influence.answer()[0].double()
    draws = (influence.draws.double() - answer.mean()) / answer.std(correction=0).clamp_min(TINY)
    return Scored((draws + seen).float(), influence.squared)
