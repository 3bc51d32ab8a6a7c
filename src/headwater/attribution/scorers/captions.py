"""A concept asked by the training images whose caption names it: no model is run for the answer.

The query's features are the mean of theirs less the mean of all others'. With the rule of TRAK the
scores are then a kernel ridge regression of "its caption names the concept" on the features: what
captions say, smoothed over the images that are alike to the model. That is close in kind to concept
activation vectors (Kim 2018), in the space of gradients.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwater.errors import MethodError, QueryError
from headwater.index.index import Index
from headwater.queries.concept import Concept
from headwater.queries.prompts import contains


def naming(index: Index, query: Concept, method: str) -> Bool[Tensor, " n"]:
    """Of each image of an index, whether its caption names the concept.

    Raises:
        MethodError: the query says how prompts are compared or exchanged, and there are none.
        QueryError: no caption names it, or all do.
    """
    compares = query.minus is not None or query.base is not None or query.context != "auto"
    if compares or query.swap:
        raise MethodError(
            f"{method} asks by captions and compares no prompts: leave out --minus, --base, "
            "--context and --swap"
        )
    named = torch.tensor([contains(s.caption, query.concept) for s in index.samples])
    if named.all() or not named.any():
        which = "every" if named.all() else "no"
        raise QueryError(
            f"{which} training caption names {query.concept!r}, so {method} has nothing to set "
            "against each other: give other words, or ask another method"
        )
    return named


def difference(index: Index, named: Bool[Tensor, " n"]) -> Float[Tensor, "1 k"]:
    """The mean of these rows of an index less the mean of the others."""
    weights = torch.where(named, 1 / named.sum(), -1 / (~named).sum())
    total, start = torch.zeros(index.recipe.dim), 0
    for block in index.blocks():
        total += weights[start : start + len(block)] @ block
        start += len(block)
    return total[None]
