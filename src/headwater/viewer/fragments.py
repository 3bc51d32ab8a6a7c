"""Pieces of the page as HTML, from `report/templates/view/`, where every value is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import PIL.Image

from headwater.attribution.answer.result import Attribution
from headwater.attribution.session import Session
from headwater.data.training_set import Sample
from headwater.index.samples import rows_by_id
from headwater.methods.choice import measure
from headwater.methods.evidence import evidence
from headwater.report.export import Ends, answer_of
from headwater.report.html import Answer, mark
from headwater.report.rendering import render
from headwater.report.wording import does_not_say
from headwater.viewer.answers.one_image import Detail, Place, ranks_there
from headwater.viewer.answers.pictures import Step, serves_journeys
from headwater.viewer.answers.stages import Found, picture

Ranking = tuple[Attribution, Ends]


def head(sessions: Mapping[str, Session]) -> str:
    """What is being asked: each index, by its name where there are several."""
    lines = [
        {
            "name": name if len(sessions) > 1 else "",
            "images": len(session.index),
            "data": PurePath(str(session.index.manifest.data["source"])).name,
            "model": PurePath(str(session.index.manifest.model["source"])).name,
            "method": session.index.recipe.method,
        }
        for name, session in sessions.items()
    ]
    return render("view/head.html", lines=lines)


def status(text: str, error: bool = False) -> str:
    """A line on what is going on. What a command line calls its options, a page has no dashes for.

    >>> "draws 0 must" in status("--draws 0 must be at least 1", error=True)
    True
    """
    return render("view/status.html", text=re.sub(r"--(?=[a-z])", "", text), error=error)


def shown(rankings: Sequence[Ranking]) -> list[tuple[Answer, Ends]]:
    """Rankings as `answers` and `distribution` show them."""
    return [(answer_of(attribution, ends), ends) for attribution, ends in rankings]


def answers(found: Found, shown: Sequence[tuple[Answer, Ends]]) -> str:
    """Both ends of each ranking, side by side, and how firm they are."""
    first = found.answers[0]
    limits = does_not_say(measure(first.method), evidence(first.method), len(first.index))
    return render(
        "view/answers.html",
        answers=shown,
        draws=found.draws,
        last=found.last,
        limits=limits,
    )


def distribution(shown: Sequence[tuple[Answer, Ends]]) -> str:
    """All scores as histograms, and groups of images where they were asked for."""
    return render("view/distribution.html", answers=shown)


def pictures(drawn: Sequence[tuple[str, PIL.Image.Image]], waiting: Sequence[str] = ()) -> str:
    """What the model makes of prompts, and what it has not drawn yet; nothing of none."""
    if not drawn and not waiting:
        return ""
    return render("view/pictures.html", pictures=drawn, waiting=waiting)


def detail(session: Session, shown: Detail, concepts: Sequence[str]) -> str:
    """One training image: full size, its places, and near-copies."""
    index = session.index
    rows = rows_by_id(index.samples, set(shown.near_copies))
    copies = [
        (rows[id], index.samples[rows[id]], picture(session, rows[id]), id)
        for id in shown.near_copies
    ]
    caption = list(mark(shown.sample.caption_line, concepts))
    return render("view/detail.html", detail=shown, caption=caption, copies=copies)


def neighbours(session: Session, found: Sequence[tuple[int, float]] | None) -> str:
    """Its nearest neighbours, (row, cosine); that they are looked for where they are not known."""
    index = session.index
    near = found and [
        (row, index.samples[row], picture(session, row), f"cosine {cosine:.2f}")
        for row, cosine in found
    ]
    return render("view/neighbours.html", neighbours=near)


def tiles(session: Session, rows: Iterable[int], empty: str) -> str:
    """Training images to choose from."""
    index = session.index
    images = [(row, index.samples[row], picture(session, row), "") for row in rows]
    return render("view/tiles.html", images=images, empty=empty)


def taught(sample: Sample, places: Sequence[Place]) -> str:
    """Where one image stands for each thing that its caption names."""
    return render("view/taught.html", sample=sample, places=places)


def journeys_of(sessions: Mapping[str, Session]) -> str:
    """Which indexes a journey can be asked of, and how to get one; nothing where it can of all."""
    served = [name for name, each in sessions.items() if serves_journeys(each.index)]
    if len(served) == len(sessions):
        return ""
    return render("view/journeys.html", served=served)


def step(steps: Sequence[Step], number: int) -> str:
    """One step of a journey, counted from 1."""
    shown = steps[number - 1]
    answer = answer_of(shown.answer, shown.ends)
    return render("view/journey.html", step=shown, answer=answer, number=number, count=len(steps))


@dataclass(frozen=True)
class Pair:
    """An answer of each of two indexes to one question.

    Attributes:
        ranks_here, ranks_there: by id, of what the other shows, where an index has it.
    """

    here: Answer
    there: Answer
    here_ends: Ends
    there_ends: Ends
    ranks_here: dict[str, int]
    ranks_there: dict[str, int]

    @property
    def both(self) -> bool:
        """Whether any image shown is in both indexes."""
        return bool(self.ranks_here or self.ranks_there)

    @property
    def shared(self) -> int:
        """How many of the highest here stand among as many there."""
        count = len(self.there_ends.top)
        ids = [shown.ranked.id for shown in self.here_ends.top]
        return sum(self.ranks_there.get(id, count + 1) <= count for id in ids)


def compared(here: Sequence[Ranking], there: Sequence[Ranking], names: Sequence[str]) -> str:
    """The same questions to two indexes, side by side."""
    pairs = [_pair(*one, *other) for one, other in zip(here, there, strict=True)]
    return render("view/compare.html", pairs=pairs, names=names)


def _pair(here: Attribution, here_ends: Ends, there: Attribution, there_ends: Ends) -> Pair:
    def ids(ends: Ends) -> list[Any]:
        return [shown.ranked.id for shown in ends.top]

    return Pair(
        answer_of(here, here_ends),
        answer_of(there, there_ends),
        here_ends,
        there_ends,
        ranks_there(here, ids(there_ends)),
        ranks_there(there, ids(here_ends)),
    )
