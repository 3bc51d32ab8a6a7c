"""A journey on disk: a sheet of every step, the scores of all steps, and a report to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from headwater.attribution.answer.bootstrap import Certainty, correlations
from headwater.attribution.answer.result import Attribution
from headwater.attribution.pictures import making_of, write_picture
from headwater.attribution.resources import Resources
from headwater.attribution.trajectory import Judge, aims, likelihoods, overlaps
from headwater.errors import StoreError
from headwater.methods.choice import measure
from headwater.methods.evidence import evidence
from headwater.queries.image import Image
from headwater.report.charts import curves
from headwater.report.export import (
    Ends,
    ends,
    entries,
    remarks,
    shared_provenance,
    to_json,
)
from headwater.report.figures import draw_figures
from headwater.report.page import Page, render_page
from headwater.report.scores import candidate_column, write_scores
from headwater.report.sheets.contact_sheet import Entry, columns_sheet
from headwater.report.wording import WORDING, Wording, does_not_say, how_to_read
from headwater.storage.files import remove_abandoned, write_image, write_text

# Entries at either end of a column.
DEPTH = 5


@dataclass(frozen=True)
class Column:
    """One step: the picture that the model aimed at, and the first proponents and opponents."""

    step: int
    aim: PIL.Image.Image
    top: Sequence[Entry]
    bottom: Sequence[Entry]
    certainty: Certainty | None


@dataclass(frozen=True)
class Journey:
    """The question, an answer for each step, and how the steps compare.

    Attributes:
        compared: matrices "correlation", "overlap of top" and "overlap of bottom" of all pairs of
            steps, and where there was a judge "likelihood": for each feature, a value at each step.
        provenance: what the answers of all steps share.
    """

    query: Image
    attributions: Sequence[Attribution]
    columns: Sequence[Column]
    compared: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def steps(self) -> list[int]:
        """Timesteps, noisiest first."""
        return [column.step for column in self.columns]

    @property
    def method(self) -> str:
        """The same of every step."""
        return self.attributions[0].method

    @property
    def measure(self) -> str:
        """What the scores are of, a key of `WORDING`."""
        return measure(self.method)

    @property
    def words(self) -> Wording:
        """What the two ends of the rankings may be called."""
        return WORDING[self.measure]


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
    out, picture = Path(out), resources.picture(query)
    compared = _compare(attributions, top)
    if judge is not None:
        compared["likelihood"] = likelihoods(resources, attributions, judge)
    both = [ends(attribution, top) for attribution in attributions]
    columns = [
        _column(*aim, attribution, step_ends)
        for aim, attribution, step_ends in zip(
            aims(resources, attributions), attributions, both, strict=True
        )
    ]
    provenance = shared_provenance(attributions[0], making_of(picture, query))
    journey = Journey(query, attributions, columns, compared, provenance)
    answer = {**_to_json(journey, both), "out": str(out)}
    figures = draw_figures(resources, query, journey.method)
    sheet, report = _sheet(journey), _report(journey, figures)
    write_picture(out, picture)
    try:
        write_image(out / "journey.png", sheet)
        files = write_scores(out, journey.attributions[0].index, _scores(journey))
        answer |= {"files": files}
        write_text(out / "journey.json", json.dumps(answer, indent=1, ensure_ascii=False))
        write_text(out / "report.html", report)
    except OSError as error:
        raise StoreError(f"cannot write to {out}: {error.strerror or error}") from None
    remove_abandoned(out)
    return answer


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


def _column(step: int, aim: PIL.Image.Image, attribution: Attribution, both: Ends) -> Column:
    certainty = attribution.certainty
    top, bottom = (entries(side[:DEPTH], certainty) for side in (both.top, both.bottom))
    return Column(step, aim, top, bottom, certainty)


def _to_json(journey: Journey, both: Sequence[Ends]) -> dict[str, Any]:
    attributions = journey.attributions
    return {
        "index": str(attributions[0].index.path),
        "prompt": journey.query.prompt,
        "seed": journey.query.seed,
        "method": journey.method,
        "steps": [
            {"step": step, **to_json(attribution, step_ends)}
            for step, attribution, step_ends in zip(journey.steps, attributions, both, strict=True)
        ],
        **journey.compared,
        "provenance": journey.provenance,
    }


def _scores(journey: Journey) -> dict[str, np.ndarray]:
    attributions = journey.attributions
    by_step = {
        f"score at step {step}": attribution.scores
        for step, attribution in zip(journey.steps, attributions, strict=True)
    }
    return {**by_step, **candidate_column(attributions[0])}


def _sheet(journey: Journey) -> PIL.Image.Image:
    query, columns, words = journey.query, journey.columns, journey.words
    of = f"“{query.prompt}”, seed {query.seed}" if query.prompt else f"seed {query.seed}"
    return columns_sheet(
        [f"step {column.step}" for column in columns],
        [
            ("Aimed at", [[column.aim] for column in columns]),
            (words.top, [[entry.image for entry in column.top] for column in columns]),
            (words.bottom, [[entry.image for entry in column.bottom] for column in columns]),
        ],
        title=f"The journey of {query.name().words}",
        subtitle=f"{journey.method}, {of}, noisiest step first",
    )


def _report(journey: Journey, figures: Sequence[tuple[str, PIL.Image.Image]]) -> str:
    query, first = journey.query, journey.attributions[0]
    certainties = [column.certainty for column in journey.columns if column.certainty is not None]
    own = {key: value for key, value in first.provenance["query"].items() if key != "step"}
    likelihood = journey.compared.get("likelihood")
    return render_page(
        "journey.html",
        Page(
            figures,
            query.prompt,
            how_to_read(journey.measure, errors=bool(certainties)),
            {**journey.provenance, "query": own},
            does_not_say(journey.measure, evidence(journey.method), len(first.index)),
        ),
        journey=journey,
        subject=query.name().words,
        images=len(first.index),
        remarks=remarks(first),
        k=max((certainty.k for certainty in certainties), default=None),
        likelihoods=None if likelihood is None else curves(journey.steps, likelihood),
    )
