"""Likeness of pictures, or of words and pictures: nothing is asked of the model."""

from __future__ import annotations

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions, score_rows
from headwater.errors import MethodError
from headwater.methods.row import Method
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.queries.query import Description, Question

ONCE = "a similarity draws nothing at random"


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """The method's rule on the embedding of what the question is like.

    Raises:
        MethodError: c+ and c- are to be exchanged, or the model reads no prompts.
        MismatchError: the CLIP is another than that of the rows.
    """
    like = query.likeness()
    extractor = resources.extractor()  # refuses another CLIP than that of the rows
    if isinstance(like, str):
        _require_words(resources, method, query)
        rows = resources.clip().texts([like]).cpu()
        description = Description(f"for the words {like!r}", {})
    else:
        assert isinstance(query, Image), f"{method.name} takes words and pictures alone"
        image = resources.picture(like).image
        rows = extractor.image_rows([image], [[""]], [""]).features.float().cpu()
        description = Description(f"of {query.title}", query.details())
    psi = [rows for _ in resources.members]
    return Scoring(score_rows(resources, method, psi, options.dampings), description, once=ONCE)


def _require_words(resources: Resources, method: Method, query: Question) -> None:
    if not resources.denoiser.conditional:
        raise MethodError(
            f"{resources.denoiser.source} reads no prompts, so it cannot be asked for a concept"
        )
    if isinstance(query, Concept) and query.swap:
        raise MethodError(
            f"--swap exchanges the texts c+ and c-, and {method.name} has none: leave it out"
        )
