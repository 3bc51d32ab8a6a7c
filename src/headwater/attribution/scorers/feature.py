"""A feature that is given, against the rows of an index: no model is asked."""

from __future__ import annotations

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.scoring import (
    Scoring,
    ScoringOptions,
    mean_feature,
    score_rows,
)
from headwater.errors import QueryError
from headwater.methods.row import Method
from headwater.queries.feature import Feature
from headwater.queries.query import Description

ONCE = "the feature is given"


def score(resources: Resources, method: Method, query: Feature, options: ScoringOptions) -> Scoring:
    """The method's rule on the rows of the file; several are draws.

    Raises:
        QueryError: the index is of several models, and the feature of one.
    """
    if len(resources.members) > 1:
        raise QueryError(
            f"{query.file} is of one model, and this index of several: ask one of theirs, in "
            f"{resources.index.path / 'checkpoints'}"
        )
    psi = [query.rows(resources.index.recipe.dim)]
    scored = score_rows(resources, method, psi, options.dampings)
    facts = {"file": str(query.file), "sha256": query.digest()}
    count = len(psi[0])
    return Scoring(
        scored,
        Description("by a feature that was given", facts),
        count,
        ONCE if count == 1 else "",
        feature=mean_feature(psi),
    )
