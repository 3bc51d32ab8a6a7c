"""What the page shows of an index: answers stage by stage, and what is known of one image."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from headwater.attribution.answer.groups import Group
from headwater.attribution.answer.result import Attribution, leading
from headwater.attribution.session import Session
from headwater.attribution.trajectory import aims
from headwater.data.training_set import Sample
from headwater.errors import QueryError
from headwater.index.samples import rows_by_id
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.queries.outputs.output import Output, question_of
from headwater.queries.query import Question
from headwater.report.export import Ends, ends
from headwater.viewer.form import (
    MOST_CONCEPTS,
    Form,
    options_of,
    questions_of,
    stages,
    words_of,
)

LEFT_OUT = "left out"  # the group of images that a person takes out of a ranking
NEIGHBOURS = 6
TURN = 0.002  # seconds


@dataclass(frozen=True)
class Found:
    """Answers to what a form asks.

    Attributes:
        stage: what was asked for so far on the way to `form`: fewer draws, a method that is sooner.
        left_out: ids of images that a person took out of the ranking.
    """

    form: Form
    answers: tuple[Attribution, ...]
    stage: Form
    left_out: tuple[str, ...] = ()

    @property
    def draws(self) -> int:
        """How many were asked for so far."""
        return self.stage.draws

    @property
    def last(self) -> bool:
        """Whether all draws that were asked for are in it."""
        return self.draws == self.form.draws

    @property
    def coming(self) -> str:
        """What is still to come, in words; "" after the last."""
        sooner = self.stage.method != self.form.method
        longer = ", and what takes the method longer is added" if sooner else ""
        return "" if self.last else f"more are being made{longer}"


class Place(NamedTuple):
    """Where an image stands in an answer, of how many; `error` is None of a single draw."""

    title: str
    rank: int
    of: int
    score: float
    error: float | None


@dataclass(frozen=True)
class Detail:
    """All that is known of one image.

    Attributes:
        neighbours: (row, cosine of both features), the nearest first; none of an index without
            features.
    """

    row: int
    sample: Sample
    image: PIL.Image.Image | None
    places: Sequence[Place]
    neighbours: Sequence[tuple[int, float]]


def ask(session: Session, form: Form) -> Iterator[Found]:
    """The answers with few draws, soon, and then with all.

    Raises:
        HeadwaterError: the question or how it is to be answered makes no sense for this index.
    """
    kinds = [question.kind for question in questions_of(form)]
    for stage in stages(session.index, form, kinds):
        yield replace(answered(session, stage, stage.draws), form=form)


def answered(session: Session, form: Form, draws: int) -> Found:
    """The answers with so many draws.

    Raises:
        HeadwaterError: as of `ask`.
    """
    stage = replace(form, draws=draws)
    return Found(form, tuple(session.attribute(questions_of(stage), **options_of(form))), stage)


def rankings(session: Session, found: Found) -> list[tuple[Attribution, Ends]]:
    """Each answer without what was left out, and both ends of its ranking."""
    left = [without(answer, found.left_out) for answer in found.answers]
    opened = partial(picture, session)
    return [(answer, ends(answer, found.form.shown, opened)) for answer in left]


@lru_cache(maxsize=128)
def picture(session: Session, row: int) -> PIL.Image.Image | None:
    """The picture of a row; those that were looked at last stay in memory."""
    return session.index.image(row)


def without(answer: Attribution, left_out: Sequence[str]) -> Attribution:
    """The answer with these images out of the competition.

    Raises:
        QueryError: none is left.
    """
    if not left_out:
        return answer
    rows = list(rows_by_id(answer.index.samples, set(left_out)).values())
    among = np.setdiff1d(answer.competing, rows)
    if not len(among):
        raise QueryError("every image is left out: put one back")
    return replace(answer, among=tuple(among.tolist()))


def estimates(session: Session, found: Found) -> list[tuple[str, Group]]:
    """What the images left out score together for each question, with its standard error.

    To first order that is what the model would lack without them.
    """
    known = rows_by_id(session.index.samples, set(found.left_out))
    if not known:
        return []
    options = {**options_of(found.stage), "group_by": {LEFT_OUT: list(known)}}
    answers = session.attribute(questions_of(found.stage), **options)
    return [
        (answer.query.title, group)
        for answer in answers
        for group in answer.groups
        if group.name == LEFT_OUT
    ]


def detail(session: Session, found: Found | None, row: int) -> Detail:
    """What is known of the image of a row.

    Raises:
        QueryError: the index has no such row.
    """
    require_row(session, row)
    places = [place(answer, row) for answer in found.answers] if found else []
    index = session.index
    near = neighbours(session, row)
    return Detail(row, index.samples[row], picture(session, row), places, near)


def place(answer: Attribution, row: int) -> Place:
    """Where a row stands among those that competed."""
    rows, score = answer.competing, float(answer.scores[row])
    rank = 1 + int((answer.scores[rows] > score).sum())
    error = None if answer.certainty is None else float(answer.certainty.errors[row])
    return Place(answer.query.title, rank, len(rows), score, error)


def neighbours(session: Session, row: int, count: int = NEIGHBOURS) -> list[tuple[int, float]]:
    """The rows whose features are most like this one's, by cosine: images that teach alike."""
    with session.lock:
        kernel, start = session.kernel(), 0
        for block in session.index.scan():
            if row < start + len(block):
                own = block[row - start].clone()[None]
                break
            start += len(block)
        else:  # an index without features
            return []
        norms = kernel.norms()
        cosines = (kernel.dot(own)[0] / (norms * norms[row]).clamp_min(1e-30)).double().numpy()
    cosines[row] = -np.inf
    return [(int(each), float(cosines[each])) for each in leading(cosines, count)]


def taught(session: Session, row: int, form: Form) -> Iterator[tuple[int, list[Place]]]:
    """Where an image stands for each thing that its caption names: what did it teach?

    With few draws, soon, and then with all; how many stands before each.

    Raises:
        QueryError: it has no caption with words that can be asked about.
    """
    caption = session.index.samples[row].caption_line
    words = words_of(caption)[:MOST_CONCEPTS]
    if not words:
        raise QueryError("its caption names nothing that could be asked about: choose another")
    of: dict[str, Any] = {"of_output": {"guidance": form.guidance}, "seed": form.seed}
    asked = [question_of(form.ask, caption, each, **of) for each in words]
    for stage in stages(session.index, form, [asked[0].kind]):
        how = {"method": stage.method or None, "damping": stage.damping}
        questions: list[Question] = [replace(each, draws=stage.draws) for each in asked]
        found = session.attribute(questions, **how)
        yield stage.draws, [place(answer, row) for answer in found]


def ranks_there(answer: Attribution, ids: Sequence[str]) -> dict[str, int]:
    """The ranks in an answer of the images with these ids, of those that its index has."""
    rows = rows_by_id(answer.index.samples, set(ids))
    return {id: place(answer, row).rank for id, row in rows.items()}


@dataclass(frozen=True)
class Step:
    """One step of a picture's making: what the model aimed at, and the answer there."""

    step: int
    aim: PIL.Image.Image
    answer: Attribution
    ends: Ends


def journey(session: Session, form: Form) -> list[Step]:
    """The answers at every step of the making of the prompt's picture, noisiest first.

    Raises:
        HeadwaterError: the index serves no method that can be asked so, or there is no prompt.
    """
    if form.picture is not None or not form.prompt:
        raise QueryError("a journey is of a picture that the model makes: write a prompt")
    query = Image(form.prompt, draws=form.draws, seed=form.seed, guidance=form.guidance)
    how = {name: value for name, value in options_of(form).items() if name != "group_by"}
    answers = session.attribute_steps(query, **how)
    with session.lock:
        seen = aims(session, answers)
    return [
        Step(step, aim, answer, ends(answer, form.shown, partial(picture, session)))
        for (step, aim), answer in zip(seen, answers, strict=True)
    ]


def pictured(form: Form) -> list[tuple[str, str]]:
    """What to draw for a form, and of which prompt: its own, and that without each concept."""
    if form.picture is not None or not form.prompt:
        return []
    asked = [("as it is", form.prompt)]
    for question in questions_of(form):
        concept = question.slider if isinstance(question, Output) else question
        if isinstance(concept, Concept):
            asked.append((f"without “{concept.concept}”", concept.complement))
    return asked


def drawn(session: Session, prompt: str, form: Form) -> PIL.Image.Image:
    """What the model makes of a prompt from the form's seed."""
    query = Image(prompt, seed=form.seed, guidance=form.guidance)
    with session.lock:
        return session.picture(_InTurns(query, session.lock)).image


@dataclass(frozen=True)
class _InTurns:
    """A picture that is drawn so that others who ask the model come between two of its steps."""

    query: Image
    lock: threading.RLock

    def picture_facts(self) -> Mapping[str, Any]:
        return self.query.picture_facts()

    def picture(self, denoiser: Denoiser) -> Picture:
        return self.query.picture(denoiser, self._let_others)

    def _let_others(self) -> None:
        self.lock.release()
        try:
            time.sleep(TURN)  # who waits for a lock is not next by right
        finally:
            self.lock.acquire()


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
