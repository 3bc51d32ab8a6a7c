"""Answers to what a form asks, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import PIL.Image

from headwater.attribution.answer.result import Attribution
from headwater.attribution.session import Session
from headwater.report.export import Ends, ends
from headwater.viewer.form import Form, options_of, questions_of, stages, stages_of_more


@dataclass(frozen=True)
class Found:
    """Answers to what a form asks.

    Attributes:
        ends: of the ranking of each answer.
        stage: what was asked for so far on the way to `form`: fewer draws, a method that is sooner.
    """

    form: Form
    answers: tuple[Attribution, ...]
    ends: tuple[Ends, ...]
    stage: Form

    @property
    def rankings(self) -> list[tuple[Attribution, Ends]]:
        """Each answer and both ends of its ranking."""
        return list(zip(self.answers, self.ends, strict=True))

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


def ask(session: Session, form: Form) -> Iterator[Found]:
    """The answers with few draws, soon, and then with all.

    Raises:
        HeadwaterError: the question or how it is to be answered makes no sense for this index.
    """
    kinds = [question.kind for question in questions_of(form)]
    for stage in stages(session.index, form, kinds):
        yield answered(session, form, stage)


def ask_more(session: Session, found: Found, draws: int) -> Iterator[Found]:
    """The answers with more draws, some at a time, which go on from those that were made.

    Raises:
        HeadwaterError: as of `ask`.
    """
    form, kinds = replace(found.form, draws=draws), [each.query.kind for each in found.answers]
    for stage in stages_of_more(session.index, form, found.draws, kinds):
        yield answered(session, form, stage)


def answered(session: Session, form: Form, stage: Form) -> Found:
    """The answers of a stage on the way to a form.

    Raises:
        HeadwaterError: as of `ask`.
    """
    answers = tuple(session.attribute(questions_of(stage), **options_of(stage)))
    opened = partial(picture, session)
    return Found(form, answers, tuple(ends(each, form.shown, opened) for each in answers), stage)


@lru_cache(maxsize=128)
def picture(session: Session, row: int) -> PIL.Image.Image | None:
    """The picture of a row; those that were looked at last stay in memory."""
    return session.index.image(row)
