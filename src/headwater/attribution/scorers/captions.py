"""A concept asked by the training images whose caption names it: no model is run for the answer.

An image with several captions names what one of them does.

The query's features are the mean of theirs less the mean of all others'. With the rule of TRAK the
scores are then a kernel ridge regression of "its caption names the concept" on the features: what
captions say, smoothed over the images that are alike to the model. That is close in kind to concept
activation vectors (Kim 2018), in the space of gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwater.attribution.passes import weighted, weighted_sum
from headwater.attribution.resources import Resources
from headwater.attribution.scorers.scoring import (
    Scoring,
    ScoringOptions,
    mean_feature,
    score_rows,
)
from headwater.data.training_set import Captions, Sample
from headwater.errors import MethodError, QueryError
from headwater.methods.row import Method
from headwater.queries.concept import Concept
from headwater.queries.query import Description, Question
from headwater.queries.words.prompts import contains
from headwater.queries.words.word_forms import inflections

ONCE = "captions are all asked at once"


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """The method's rule on what sets the images apart whose caption names the concept."""
    assert isinstance(query, Concept), f"{method.name} takes concepts alone"
    named = naming(resources.index.samples, query, method.name)
    psi = [difference(member, named) for member in resources.members]
    count = int(named.sum())
    images = f"{count:,} image{'s' if count > 1 else ''} whose caption names it"
    facts = {"captions that name it": count}
    description = Description(f"by {images}, against the rest", facts)
    scored = score_rows(resources, method, psi, options.dampings)
    return Scoring(scored, description, once=ONCE, feature=mean_feature(psi))


def naming(samples: Sequence[Sample], query: Concept, method: str) -> Bool[Tensor, " n"]:
    """Of each image, whether a caption names the concept.

    Raises:
        MethodError: see `require_no_prompts`.
        QueryError: no caption names it, or all do.
    """
    require_no_prompts(query, method)
    named = torch.tensor(
        [any(contains(text, query.concept) for text in sample.all_captions) for sample in samples]
    )
    if named.all() or not named.any():
        which = "every" if named.all() else "no"
        near = inflections(query.concept, Captions(samples)) if which == "no" else {}
        held = "".join(f" ({form!r} is in {count})" for form, count in near.items())
        raise QueryError(
            f"{which} training caption names {query.concept!r}{held}, so {method} has nothing to "
            "set against each other: give other words, or ask another method"
        )
    return named


def require_no_prompts(query: Concept, method: str) -> None:
    """Refuse what is of prompts, for a method of captions.

    Raises:
        MethodError: the query says how prompts are compared or exchanged, and there are none.
    """
    prompts = query.minus is not None or query.base is not None or query.anchor
    if prompts or query.context != "auto" or query.swap:
        raise MethodError(
            f"{method} asks by captions and compares no prompts: leave out --minus, --base, "
            "--anchor, --context and --swap"
        )


def difference(member: Resources, named: Bool[Tensor, " n"]) -> Float[Tensor, "1 k"]:
    """The mean of these rows of an index less the mean of the others."""
    weights = torch.where(named, 1 / named.sum(), -1 / (~named).sum())
    index = member.index
    if member.by_workers(len(index)):
        return weighted_sum(index, member.executor, weights)[None]
    return weighted(index.scan(), index.recipe.dim, weights)[None]
