"""A journey on disk: a sheet of every step, the scores of all steps, and a report to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from headwater.attribution.answer.bootstrap import correlations
from headwater.attribution.answer.result import Attribution
from headwater.attribution.pictures import making_of, write_picture
from headwater.attribution.resources import Resources
from headwater.attribution.trajectory import Judge, aims, likelihoods, overlaps
from headwater.queries.image import Image
from headwater.report.export import (
    Ends,
    ends,
    entries,
    remarks,
    shared_provenance,
    to_json,
)
from headwater.report.figures import draw_figures
from headwater.report.journeys.journey import Column, Journey, write_steps
from headwater.report.page import Page, render_page
from headwater.report.wording import does_not_say, does_not_say_in_short, how_to_read
from headwater.storage.files import changing, remove_abandoned, write_text

# Entries at either end of a column.
DEPTH = 5


def write_journey(
    resources: Resources,
    query: Image,
    attributions: Sequence[Attribution],
    out: str | Path,
    top: int = 10,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Write the folder `out` and return the journey as one JSON-ready object.

    Holds `query.png`, `query.safetensors` (noise, latents), `journey.png`, `journey.json`,
    `scores.parquet` with a column for each step, and `report.html`. A `judge` of pictures, which
    returns a dict from the name of each feature to its probability in each picture, adds how
    likely each is in what each step aimed at: a curve in the report, numbers in the JSON.

    Raises:
        StoreError: `out` cannot be written.
        QueryError: the judge fails, or returns something else.

    Example:
        question = Image("a red star", seed=3)  # of an index by method="trak"
        write_journey(session, question, session.attribute_steps(question), "journey")
    """
    out = Path(out)
    journey = journey_of(resources, query, attributions, top, judge)
    report = _report(journey, draw_figures(resources, query, journey.method))
    write_picture(out, resources.picture(query))
    with changing(out):
        answer = write_steps(out, journey, out)
        write_text(out / "report.html", report)
    remove_abandoned(out)
    return answer


def journey_of(
    resources: Resources,
    query: Image,
    attributions: Sequence[Attribution],
    top: int = 10,
    judge: Judge | None = None,
) -> Journey:
    """The answers at every step, with what each aimed at, to stand in a report.

    Args:
        attributions: of `Session.attribute_steps`.
        top: how many of either end the steps are compared by.
        judge: as of `write_journey`.

    Raises:
        QueryError: the judge fails, or returns something else.

    Example:
        question = Image("a red star", seed=3)  # of an index by method="trak"
        steps = journey_of(session, question, session.attribute_steps(question))
        write_answers(session, [session.attribute(question)], "answer", journey=steps)
    """
    compared = _compare(attributions, top)
    if judge is not None:
        compared["likelihood"] = likelihoods(resources, attributions, judge)
    both = [ends(attribution, top) for attribution in attributions]
    seen = aims(resources, attributions)
    return Journey(
        query,
        attributions,
        [_column(*each) for each in zip(seen, attributions, both, strict=True)],
        remarks(attributions[0]),
        compared,
        [to_json(*each) for each in zip(attributions, both, strict=True)],
        shared_provenance(attributions[0], making_of(resources.picture(query), query)),
    )


def _compare(attributions: Sequence[Attribution], top: int) -> dict[str, Any]:
    """How alike the steps are."""
    scores = np.stack([attribution.scores for attribution in attributions])
    competing = scores[:, attributions[0].competing]  # the same of every step
    compared: dict[str, Any] = {
        "correlation": correlations(scores).round(4).tolist(),
        "overlap of top": overlaps(competing, top).round(4).tolist(),
        "overlap of bottom": overlaps(-competing, top).round(4).tolist(),
    }
    return compared


def _column(aim: tuple[int, PIL.Image.Image], attribution: Attribution, both: Ends) -> Column:
    certainty = attribution.certainty
    top, bottom = (entries(side[:DEPTH], certainty) for side in (both.top, both.bottom))
    return Column(*aim, top, bottom, certainty)


def _report(journey: Journey, figures: Sequence[tuple[str, PIL.Image.Image]]) -> str:
    images = len(journey.attributions[0].index)
    return render_page(
        "journey.html",
        Page(
            figures,
            journey.query.prompt,
            how_to_read(journey.measure, errors=journey.k is not None),
            {**journey.provenance, "query": journey.asked},
            does_not_say(journey.measure, journey.measured, images),
            does_not_say_in_short(journey.measure),
        ),
        journey=journey,
        images=images,
    )
