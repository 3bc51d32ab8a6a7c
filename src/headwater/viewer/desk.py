"""What happens when something on the page is clicked: values of controls in, their new values out.

Every function here yields dictionaries from names of controls to what they are to show, one after
the other as work goes on. Names and values are data; `page` knows the controls themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headwater.attribution.session import Session
from headwater.errors import QueryError
from headwater.features.spec import MOST_DRAWS
from headwater.index.index import Index
from headwater.viewer import answers, fragments, uploads
from headwater.viewer.answers import Found
from headwater.viewer.form import (
    ASKED_FOR,
    DAMPINGS,
    MOST_CONCEPTS,
    MOST_LETTERS,
    Form,
    asked_words,
    complements,
    complements_key,
    form_of,
    settled,
    words_of,
)
from headwater.viewer.links import form_of_link, link_of

Values = Mapping[str, Any]
Updates = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Desk:
    """What all who look at a page share.

    Attributes:
        sessions: by the name that stands for each on the page.
        folder: of the page's own files, uploads and downloads.
        visited: set once somebody has opened the page.
    """

    sessions: Mapping[str, Session]
    folder: Path
    visited: threading.Event = field(default_factory=threading.Event)

    def session(self, values: Values) -> Session:
        """The one that gave the answer that is looked at; without an answer, the one chosen.

        Raises:
            QueryError: there is none of that name.
        """
        found = values.get("found")
        if found is not None:
            return self.sessions[self.name_of(found.answers[0].index)]
        return self.chosen(values.get("index"))

    def chosen(self, name: str | None) -> Session:
        """The one of this name, by default the first.

        Raises:
            QueryError: there is none of that name.
        """
        name = name or next(iter(self.sessions))
        if name not in self.sessions:
            raise QueryError(f"there is no index {name!r} here: choose one of the list")
        return self.sessions[name]

    def link(self, form: Form) -> str:
        """The link of a form; it names its index where that is not the first."""
        first = form.index == next(iter(self.sessions))
        return link_of(replace(form, index="") if first else form)

    def name_of(self, index: Index) -> str:
        """The name of the session that an answer's index is of."""
        return next(name for name, each in self.sessions.items() if each.index is index)


# --- the question ---------------------------------------------------------------------------------


def opened(desk: Desk, values: Values, link: Sequence[tuple[str, str]]) -> Updates:
    """The controls as a link has them; as they are where it has nothing."""
    yield {"status": fragments.status("Write a prompt, choose words of it, and ask.")}
    desk.visited.set()
    form = form_of_link(link)
    if form == Form():
        return
    # a list that is given what it does not hold refuses every click from then on
    form = replace(
        form,
        ask=form.ask if form.ask in ASKED_FOR else "",
        damping=form.damping if form.damping in DAMPINGS else None,
    )
    words = words_of(form.prompt)
    chips = [each for each in form.concepts if each in words]
    methods = {name for session in desk.sessions.values() for name in session.index.methods()}
    phrases = [each for each in form.concepts if each not in words]
    asked_of = {
        "prompt": form.prompt,
        "words": words,
        "concepts": {"choices": words, "value": chips},
        "phrase": "\n".join(phrases),
        **_against(form.prompt, form.concepts),
        **({"against": "\n".join(form.against)} if any(form.against) else {}),
    }
    yield {
        **({"index": form.index} if form.index in desk.sessions else {}),
        **(asked_of if form.prompt else {}),  # a person may be writing one by now
        "ask_for": form.ask,
        "whole": form.whole,
        "seed": form.seed,
        "guidance": form.guidance,
        "method": form.method if form.method in methods else "",
        "damping": form.damping or 0.0,
        "draws": form.draws,
        "where": "\n".join(form.where),
        "group_by": form.group_by,
        "shown": form.shown,
    }
    if form.concepts or form.whole:
        yield from asked(desk, form)


def prompted(desk: Desk, values: Values) -> Updates:
    """The words of the prompt to choose from, those that were chosen before still chosen.

    What is chosen is told only where a word has gone: a person may choose while this goes on.
    """
    prompt, before = values["prompt"] or "", values["concepts"] or []
    words = words_of(prompt)
    left = [word for word in before if word in words]
    changed = {} if left == before else {"value": left}
    if words != values["words"]:
        yield {"words": words, "concepts": {"choices": words, **changed}}
    yield _again_against({**values, "concepts": left})


def chosen(desk: Desk, values: Values) -> Updates:
    """The prompt without each of the words that are chosen."""
    yield _again_against(values)


def _again_against(values: Values) -> dict[str, Any]:
    """As `_against`, unless what stands there is of the same prompt and words, perhaps edited."""
    prompt, concepts = asked_words(values)
    told = _against(prompt[:MOST_LETTERS], concepts[:MOST_CONCEPTS])
    return {} if told["against_of"] == values["against_of"] else told


def _against(prompt: str, concepts: Sequence[str]) -> dict[str, Any]:
    """The prompt without each concept, and what these lines are of."""
    return {
        "against": complements(prompt, concepts),
        "against_of": complements_key(prompt, concepts),
    }


def ask(desk: Desk, values: Values) -> Updates:
    """Answers to words of the prompt, or to what it makes as a whole."""
    yield from asked(desk, form_of(values))


def ask_of_picture(desk: Desk, values: Values) -> Updates:
    """Answers to a picture that was dropped, or to the part of it that was painted."""
    painted = values["painted"]
    if painted is None or painted.background is None:
        raise QueryError("there is no picture yet: drop one, or click to choose a file")
    picture = uploads.picture_of(painted.background)
    mask = uploads.mask_of(painted.layers, picture.size)
    form = replace(
        form_of({**values, "prompt": values["picture_prompt"], "concepts": (), "phrase": ""}),
        whole=False,
        picture=uploads.kept(desk.folder, picture),
        mask=None if mask is None else uploads.kept(desk.folder, mask),
    )
    yield from asked(desk, form)


def more(desk: Desk, values: Values) -> Updates:
    """The same with twice as many draws, which go on from those that were made."""
    found = found_of(values)
    draws = min(2 * found.form.draws, MOST_DRAWS)
    if draws == found.form.draws:
        raise QueryError(f"{draws} draws are as many as a page makes: ask with another seed")
    yield {"draws": draws, "status": fragments.status(f"Making {draws - found.draws} more draws.")}
    form = replace(found.form, draws=draws)
    new = answers.answered(desk.session(values), form, draws)
    yield from _show(desk, replace(new, left_out=found.left_out))


def switched(desk: Desk, values: Values) -> Updates:
    """Nothing of another index is shown any more."""
    shown = ("answers", "distribution", "detail", "tiles", "taught", "journey", "compared")
    nothing: dict[str, Any] = dict.fromkeys((*shown, "pictures"), "")
    yield nothing | {"found": None, "row": None, "row_of": "", "steps": None}
    yield {"left_out": {"choices": [], "value": []}, "leave_out": {"visible": False}}


def asked(desk: Desk, form: Form) -> Updates:
    """The answers to a form, first with few draws; then `beside.pictured` draws its pictures."""
    session, start = desk.chosen(form.index), time.monotonic()
    form = settled(form, session.index)
    yield {
        "status": fragments.status("Asking the model."),
        "detail": "",
        "row": None,
        "row_of": "",
        "leave_out": {"visible": False},
        "link": desk.link(form),
        "left_out": {"choices": [], "value": []},
        "pictures": "",
    }
    for found in answers.ask(session, form):
        yield from _show(desk, found, start)
    yield {"to_draw": time.monotonic_ns()}  # another at each answer


def again(desk: Desk, values: Values) -> Updates:
    """The same question by the choices as they are now; draws are those that were made."""
    if values["found"] is None:
        return
    found, now = found_of(values), form_of(values)
    names = ("damping", "where", "group_by", "shown")
    form = replace(found.form, **{name: getattr(now, name) for name in names})
    new = answers.answered(desk.session(values), form, found.draws)
    yield {"link": desk.link(form)}
    yield from _show(desk, replace(new, left_out=found.left_out))


def _show(desk: Desk, found: Found, start: float | None = None) -> Updates:
    """Answers in all places that show them."""
    first = found.answers[0]
    name = desk.name_of(first.index)
    session = desk.sessions[name]
    rankings = answers.rankings(session, found)
    shown, estimates = fragments.shown(rankings), answers.estimates(session, found)
    draws = first.provenance["query"].get("draws", 1)
    seconds = "" if start is None else f", {time.monotonic() - start:.1f} s"
    going_on = f"; {found.coming}" if found.coming else ""
    ids = [each.ranked.id for _, ends in rankings for each in (*ends.top, *ends.bottom)]
    yield {
        "index": name,  # another may have been chosen while this one was asked
        "found": found,
        "answers": fragments.answers(found, shown, estimates),
        "distribution": fragments.distribution(shown),
        "left_out": {
            "choices": list(dict.fromkeys([*found.left_out, *ids])),
            "value": list(found.left_out),
        },
        "status": fragments.status(
            f"{first.method}, {draws} draw{'' if draws == 1 else 's'}{seconds}{going_on}."
        ),
    }


# --- one image ------------------------------------------------------------------------------------


def look(desk: Desk, values: Values, row: Any) -> Updates:
    """All that is known of the image that was clicked."""
    session, found = desk.session(values), values["found"]
    if isinstance(row, bool) or not isinstance(row, int):
        raise QueryError("that is no image: click one that is shown")
    shown = answers.detail(session, found, row)
    concepts = found.form.concepts if found else ()
    said = fragments.detail(session, shown, concepts)
    told = {"row": row, "row_of": desk.name_of(session.index), "detail": said}
    yield told | {"leave_out": {"visible": found is not None}}


def leave_out(desk: Desk, values: Values) -> Updates:
    """The ranking without the image that is looked at, and what that would change."""
    found, (session, row) = found_of(values), looked_at(desk, values)
    if session is not desk.session(values):
        raise QueryError("that image is of another index than the answer: click one of the answer")
    left = dict.fromkeys([*found.left_out, session.index.samples[row].id])
    yield from _show(desk, replace(found, left_out=tuple(left)))


def left_out(desk: Desk, values: Values) -> Updates:
    """The ranking without the images that stand in the list."""
    if values["found"] is not None:
        left = tuple(values["left_out"] or ())
        yield from _show(desk, replace(found_of(values), left_out=left))


def looked_at(desk: Desk, values: Values) -> tuple[Session, int]:
    """The session and row of the image whose details the browser showed at the click.

    Raises:
        QueryError: there is none.
    """
    session, row = desk.chosen(values["row_of"]), values["row"]
    if row is None:
        raise QueryError("no image is looked at: click one first")
    answers.require_row(session, row)
    return session, row


def found_of(values: Values) -> Found:
    """The answer that is looked at.

    Raises:
        QueryError: there is none.
    """
    if values["found"] is None:
        raise QueryError("there is no answer yet: ask first")
    return values["found"]
