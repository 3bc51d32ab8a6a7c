"""Scores that know nothing, others for each question: what other methods are held against."""

from __future__ import annotations

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scores import Scored
from headwater.methods.row import Method
from headwater.models.sampling import seeded_noise
from headwater.queries.image import Image
from headwater.queries.local.local_concept import Local
from headwater.queries.query import Description, Question


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """Normal random numbers by the question's seed and title; a picture's by its contents too."""
    contents = [query.prompt, *query.contents()] if isinstance(query, (Image, Local)) else []
    shape = (1, len(resources.index))
    scores = seeded_noise(shape, query.seed, "random", query.title, *contents)
    return Scoring(
        dict.fromkeys(options.dampings, Scored(scores)),
        Description("nothing: scores are random", {}),
        once="the scores are random numbers",
    )
