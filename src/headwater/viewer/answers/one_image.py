"""What is known of one training image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from headwater.attribution.answer.result import Attribution, leading
from headwater.attribution.session import Session
from headwater.data.training_set import Sample
from headwater.errors import QueryError
from headwater.index.samples import rows_by_id
from headwater.queries.outputs.output import question_of
from headwater.queries.query import Question
from headwater.viewer.answers.stages import Found, picture
from headwater.viewer.form import MOST_CONCEPTS, Form, stages, words_of

NEIGHBOURS = 6


class Place(NamedTuple):
    """Where an image stands in an answer, of how many.

    Attributes:
        rank: None of one that is left out of the ranking, or does not compete in it.
        error: None of a single draw.
    """

    title: str
    rank: int | None
    of: int
    score: float
    error: float | None


@dataclass(frozen=True)
class Detail:
    """All that is known of one image, but for its neighbours.

    Attributes:
        near_copies: ids of images that stand with it as one entry of an answer.
    """

    row: int
    sample: Sample
    image: PIL.Image.Image | None
    places: Sequence[Place]
    near_copies: Sequence[str]


def detail(session: Session, found: Found | None, row: int) -> Detail:
    """What is known of the image of a row.

    Raises:
        QueryError: the index has no such row.
    """
    require_row(session, row)
    places = [place(answer, row) for answer in found.answers] if found else []
    sample = session.index.samples[row]
    copies = near_copies(found, sample.id) if found else []
    return Detail(row, sample, picture(session, row), places, copies)


def near_copies(found: Found, id: str) -> list[str]:
    """The images that stand with one as one entry, at either end of any answer."""
    shown = (each for ends in found.ends for each in (*ends.top, *ends.bottom))
    together = [(each.ranked.id, *each.near_copies) for each in shown]
    several = (ids for ids in together if id in ids)
    return list(dict.fromkeys(other for ids in several for other in ids if other != id))


def place(answer: Attribution, row: int) -> Place:
    """Where a row stands among those that competed."""
    rows, score = answer.competing, float(answer.scores[row])
    rank = 1 + int((answer.scores[rows] > score).sum()) if row in rows else None
    error = None if answer.certainty is None else float(answer.certainty.errors[row])
    return Place(answer.query.title, rank, len(rows), score, error)


def neighbours(session: Session, row: int, count: int = NEIGHBOURS) -> list[tuple[int, float]]:
    """The rows whose features are most like this one's, and their cosines, the nearest first.

    Waits while the session answers a question.
    """
    with session.lock:
        kernel, own = session.kernel(), session.index.some_rows([row]).features
        norms = kernel.norms()
        cosines = (kernel.dot(own)[0] / (norms * norms[row]).clamp_min(1e-30)).double().numpy()
    cosines[row] = -np.inf
    return [(int(each), float(cosines[each])) for each in leading(cosines, count)]


def taught(session: Session, row: int, form: Form) -> Iterator[tuple[int, list[Place]]]:
    """Where an image stands for each thing that its caption names: what did it teach?

    With few draws, soon, and then with all; how many stands before each. What is left out of the
    ranking is out of this one too, but for the image itself.

    Raises:
        QueryError: it has no caption with words that can be asked about.
    """
    sample = session.index.samples[row]
    caption = sample.caption_line
    words = words_of(caption)[:MOST_CONCEPTS]
    if not words:
        raise QueryError("its caption names nothing that could be asked about: choose another")
    asked = [question_of(form.ask, caption, each, seed=form.seed) for each in words]
    for stage in stages(session.index, form, [asked[0].kind]):
        how: dict[str, Any] = {"method": stage.method or None, "damping": stage.damping}
        how["left_out"] = [id for id in stage.left_out if id != sample.id]
        questions: list[Question] = [replace(each, draws=stage.draws) for each in asked]
        found = session.attribute(questions, **how)
        yield stage.draws, [place(answer, row) for answer in found]


def ranks_there(answer: Attribution, ids: Sequence[str]) -> dict[str, int]:
    """The ranks in an answer of the images with these ids, of those that compete in it."""
    rows = rows_by_id(answer.index.samples, set(ids))
    ranks = {id: place(answer, row).rank for id, row in rows.items()}
    return {id: rank for id, rank in ranks.items() if rank is not None}


def search(session: Session, words: str, count: int = 24) -> list[int]:
    """The first rows whose caption or id holds these words."""
    wanted, found = words.casefold().strip(), []
    for row, sample in enumerate(session.index.samples):
        if wanted in sample.caption_line.casefold() or wanted in sample.id.casefold():
            found.append(row)
            if len(found) == count:
                break
    return found


def require_row(session: Session, row: int) -> None:
    """Refuse a row that the index does not have.

    Raises:
        QueryError: so it is.
    """
    if not 0 <= row < len(session.index):
        raise QueryError(f"there is no image {row}: choose one that is shown")
