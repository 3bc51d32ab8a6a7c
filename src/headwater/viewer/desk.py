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
from headwater.viewer import fragments, uploads
from headwater.viewer.answers import stages
from headwater.viewer.answers.progress import watched
from headwater.viewer.answers.stages import Found
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
    yield from asked(desk, _anew(values))


def _anew(values: Values) -> Form:
    """What a person chose, of which images none is left out yet."""
    return replace(form_of(values), left_out=())


def ask_of_picture(desk: Desk, values: Values) -> Updates:
    """Answers to a picture that was dropped, or to the part of it that was painted."""
    painted = values["painted"]
    if painted is None or painted.background is None:
        raise QueryError("there is no picture yet: drop one, or click to choose a file")
    picture = uploads.picture_of(painted.background)
    mask = uploads.mask_of(painted.layers, picture.size)
    form = replace(
        _anew({**values, "prompt": values["picture_prompt"], "concepts": (), "phrase": ""}),
        whole=False,
        picture=uploads.kept(desk.folder, picture),
        mask=None if mask is None else uploads.kept(desk.folder, mask),
    )
    yield from asked(desk, form)


def more(desk: Desk, values: Values) -> Updates:
    """The same with twice as many draws, which go on from those that were made."""
    found = found_of(values)
    # of an answer that was cancelled those are still to come that were asked for
    draws = min(2 * found.draws, MOST_DRAWS) if found.last else found.form.draws
    if draws == found.draws:
        raise QueryError(f"{draws} draws are as many as a page makes: ask with another seed")
    yield {"draws": draws, "status": fragments.status(f"Making {draws - found.draws} more draws.")}
    yield from _shown(desk, stages.ask_more(desk.session(values), found, draws))


def switched(desk: Desk, values: Values) -> Updates:
    """Nothing of another index is shown any more."""
    shown = ("answers", "distribution", "detail", "neighbours", "tiles", "pictures")
    nothing: dict[str, Any] = dict.fromkeys(shown, "")
    yield nothing | {"found": None, "row": None, "row_of": ""} | STALE
    yield {"left_out": {"choices": [], "value": []}, "leave_out": {"visible": False}}


# What was asked beside an answer, once that is another.
STALE: dict[str, Any] = {**dict.fromkeys(("taught", "journey", "compared"), ""), "steps": None}


def asked(desk: Desk, form: Form) -> Updates:
    """The answers to a form, first with few draws; then `beside.pictured` draws its pictures."""
    session, start = desk.chosen(form.index), time.monotonic()
    form = settled(form, session.index)
    yield {
        "status": fragments.status("Asking the model."),
        "detail": "",
        "neighbours": "",
        "row": None,
        "row_of": "",
        "leave_out": {"visible": False},
        "link": desk.link(form),
        "left_out": {"choices": list(form.left_out), "value": list(form.left_out)},
        "pictures": "",
    } | STALE
    yield from _shown(desk, stages.ask(session, form), start)
    yield {"to_draw": time.monotonic_ns()}  # another at each answer


def again(desk: Desk, values: Values) -> Updates:
    """The same question by the choices as they are now; draws are those that were made."""
    if values["found"] is None:
        return
    found, now = found_of(values), form_of(values)
    names = ("damping", "where", "group_by", "shown")
    form = replace(found.form, **{name: getattr(now, name) for name in names})
    stage = replace(form, draws=found.draws)
    session = desk.session(values)
    yield from show(desk, (yield from watched(lambda: stages.answered(session, form, stage))))
    yield STALE


def _shown(desk: Desk, asking: Iterator[Found], start: float | None = None) -> Updates:
    """Answers as they come, and how far the next is."""
    while (found := (yield from watched(lambda: next(asking, None)))) is not None:
        yield from show(desk, found, start)


def show(desk: Desk, found: Found, start: float | None = None) -> Updates:
    """Answers in all places that show them."""
    first = found.answers[0]
    shown, left_out = fragments.shown(found.rankings), list(found.form.left_out)
    draws = first.provenance["query"].get("draws", 1)
    seconds = "" if start is None else f", {time.monotonic() - start:.1f} s"
    going_on = f"; {found.coming}" if found.coming else ""
    ids = [each.ranked.id for ends in found.ends for each in (*ends.top, *ends.bottom)]
    yield {
        # another may have been chosen while this one was asked
        "index": desk.name_of(first.index),
        "found": found,
        "answers": fragments.answers(found, shown),
        "distribution": fragments.distribution(shown),
        "left_out": {"choices": list(dict.fromkeys([*left_out, *ids])), "value": left_out},
        "link": desk.link(found.form),
        "status": fragments.status(
            f"{first.method}, {draws} draw{'' if draws == 1 else 's'}{seconds}{going_on}."
        ),
    }


def found_of(values: Values) -> Found:
    """The answer that is looked at.

    Raises:
        QueryError: there is none.
    """
    if values["found"] is None:
        raise QueryError("there is no answer yet: ask first")
    return values["found"]
