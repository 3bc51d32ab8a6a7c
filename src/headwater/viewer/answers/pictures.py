"""Pictures that the model makes: of prompts, and step by step with the answers there."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import PIL.Image

from headwater.attribution.answer.result import Attribution
from headwater.attribution.session import Session
from headwater.attribution.trajectory import aims
from headwater.errors import MethodError, QueryError
from headwater.index.index import Index
from headwater.methods.choice import choose
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.queries.outputs.output import Output
from headwater.report.export import Ends, ends
from headwater.viewer.answers.stages import picture
from headwater.viewer.form import Form, options_of, questions_of

TURN = 0.002  # seconds


@dataclass(frozen=True)
class Step:
    """One step of a picture's making: what the model aimed at, and the answer there."""

    step: int
    aim: PIL.Image.Image
    answer: Attribution
    ends: Ends


def serves_journeys(index: Index) -> bool:
    """Whether one of an index's methods can be asked for every step of a picture's making."""
    try:
        choose(None, index.recipe.method, index.methods(), "journey")
    except MethodError:
        return False
    return True


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
