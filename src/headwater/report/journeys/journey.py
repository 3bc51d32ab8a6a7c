"""A journey as data: the answers at every step of a picture's making, and its files.

What the steps aimed at and how they compare is worked out in `trajectory`; a journey stands
in a report of its own (`templates/journey.html`) or in one with other answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from headwater.attribution.answer.bootstrap import Certainty
from headwater.attribution.answer.result import Attribution
from headwater.methods.choice import measure
from headwater.methods.evidence import evidence
from headwater.queries.image import Image
from headwater.report.charts import Curves, curves
from headwater.report.scores import candidate_column, write_scores
from headwater.report.sheets.contact_sheet import Entry, columns_sheet
from headwater.report.wording import WORDING, Wording
from headwater.storage.files import write_image, write_text


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
        remarks: what else a reader must know, sentence by sentence.
        compared: matrices "correlation", "overlap of top" and "overlap of bottom" of all pairs of
            steps, and where there was a judge "likelihood": for each feature, a value at each step.
        results: of each step, its part of the JSON answer.
        provenance: what the answers of all steps share.
    """

    query: Image
    attributions: Sequence[Attribution]
    columns: Sequence[Column]
    remarks: Sequence[str]
    compared: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]

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

    @property
    def measured(self) -> str:
        """What was measured of the method."""
        return evidence(self.method)

    @property
    def subject(self) -> str:
        """What was asked for."""
        return self.query.name().words

    @property
    def of(self) -> str:
        """Which picture it is the making of."""
        query = self.query
        return f"“{query.prompt}”, seed {query.seed}" if query.prompt else f"seed {query.seed}"

    @property
    def k(self) -> int | None:
        """How many of the highest the certainties are of; None where no step has any."""
        known = (column.certainty for column in self.columns)
        return max((each.k for each in known if each is not None), default=None)

    @property
    def sure(self) -> str:
        """How firm the steps' answers are, in a sentence; "" where nothing is known of it."""
        known = [each.certainty.stability for each in self.columns if each.certainty is not None]
        if not known:
            return ""
        return (
            f"{min(known):.0%} to {max(known):.0%} of a step's top {self.k} stay there when its "
            "draws are resampled."
        )

    @property
    def likelihoods(self) -> Curves | None:
        """What a judge found in what the steps aimed at, drawn; None without one."""
        likelihood = self.compared.get("likelihood")
        return None if likelihood is None else curves(self.steps, likelihood)

    @property
    def asked(self) -> dict[str, Any]:
        """How the question was put, but for the step."""
        query = self.attributions[0].provenance["query"]
        return {key: value for key, value in query.items() if key != "step"}


def write_steps(folder: Path, journey: Journey, out: Path) -> dict[str, Any]:
    """Write `journey.json`, `journey.png` and `scores.parquet`; returns what the JSON says.

    Args:
        out: the answer that they are part of, as the JSON names it.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / "journey.png", _sheet(journey))
    first = journey.attributions[0]
    answer = {
        "index": str(first.index.path),
        "prompt": journey.query.prompt,
        "seed": journey.query.seed,
        "method": journey.method,
        "steps": [
            {"step": step, **result}
            for step, result in zip(journey.steps, journey.results, strict=True)
        ],
        **journey.compared,
        "provenance": journey.provenance,
        "out": str(out),
        "files": write_scores(folder, first.index, _scores(journey)),
    }
    write_text(folder / "journey.json", json.dumps(answer, indent=1, ensure_ascii=False))
    return answer


def _scores(journey: Journey) -> dict[str, np.ndarray]:
    attributions = journey.attributions
    by_step = {
        f"score at step {step}": attribution.scores
        for step, attribution in zip(journey.steps, attributions, strict=True)
    }
    return {**by_step, **candidate_column(attributions[0])}


def _sheet(journey: Journey) -> PIL.Image.Image:
    columns, words = journey.columns, journey.words
    return columns_sheet(
        [f"step {column.step}" for column in columns],
        [
            ("Aimed at", [[column.aim] for column in columns]),
            (words.top, [[entry.image for entry in column.top] for column in columns]),
            (words.bottom, [[entry.image for entry in column.bottom] for column in columns]),
        ],
        title=f"The journey of {journey.subject}",
        subtitle=f"{journey.method}, {journey.of}, noisiest step first",
    )
