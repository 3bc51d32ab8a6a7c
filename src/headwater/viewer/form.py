"""What a person chose on the page, as data: checked, and asked.

Everything comes from outside. Nothing of it names a file or a function, and each value has bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headwater.attribution.scorers.table import TOGETHER
from headwater.errors import QueryError
from headwater.features.spec import DRAWS, MOST_DRAWS
from headwater.index.index import Index
from headwater.methods.choice import choose, usual_ask
from headwater.methods.row import Method
from headwater.queries.concept import Concept
from headwater.queries.draws import KEPT_BY
from headwater.queries.image import Image
from headwater.queries.outputs.output import asked_as, question_of
from headwater.queries.query import Question
from headwater.queries.words.content import content_words
from headwater.queries.words.prompts import without

MOST_LETTERS, MOST_LINES = 2000, 8
MOST_CONCEPTS = 8
MOST_SHOWN, MOST_LEFT_OUT = 40, 100
SLIDER = "slider"
# What can be asked of words, as a person reads it.
ASKED_FOR = {
    "": "what the method is for",
    SLIDER: "the direction that the words lie in",
    "contribution": "what the words gain",
    "loss": "the loss on pictures of them",
}
DAMPINGS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # to choose from
# Of the first answer, which is there soon. Of fewer an image that a draw is asked on would have one
# score by the others, and no error.
FIRST_DRAWS = 4
MOST_STAGES = 4  # answers that are shown on the way to more draws
_GREATEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Form:
    """A question and how it is answered.

    Attributes:
        concepts: words of the prompt, each a question of its own.
        against: for each concept the prompt without it as it was edited; "" where it was not.
        whole: whether the picture as a whole is asked about.
        picture: a file of the page's own, instead of one that the prompt makes.
        mask: likewise; white where the picture counts.
        ask: what of each concept: the direction that its words lie in ("slider"), or an output; ""
            for what the method is for, see `settled`.
        method: "" for the index's own.
        damping: None for the method's own.
        where: conditions of `headwater.attribution.attributor.Options`, one a line.
        group_by: a field of rows.
        shown: images at either end of the ranking.
        left_out: ids of images that a person took out of the ranking.
        index: its name on the page; "" for the first.
    """

    prompt: str = ""
    concepts: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    ask: str = ""
    whole: bool = False
    picture: Path | None = None
    mask: Path | None = None
    seed: int = 0
    guidance: float = 5.0
    method: str = ""
    damping: float | None = None
    draws: int = DRAWS
    where: tuple[str, ...] = ()
    group_by: str = ""
    shown: int = 10
    left_out: tuple[str, ...] = ()
    index: str = ""


def questions_of(form: Form) -> list[Question]:
    """What a form asks, the picture as a whole first.

    Raises:
        QueryError: it asks nothing, or a value is out of its bounds.

    >>> form = Form(prompt="a red star", concepts=("red", "star"))
    >>> [question.title for question in questions_of(form)]
    ['red', 'star']
    """
    _require_bounds(form)
    asked: list[Question] = []
    same: dict[str, Any] = {"draws": form.draws, "seed": form.seed}
    if form.whole or form.picture is not None:
        asked.append(Image(form.prompt, form.picture, form.mask, guidance=form.guidance, **same))
    for words, edited in zip(form.concepts, _edited(form), strict=True):
        if edited and asked_as(form.ask) is not Concept:
            raise QueryError(
                f"{edited!r} is edited, and what words gain, and the loss, are of the prompt just "
                "without them: put the line back, or ask for the direction"
            )
        of_slider = {"minus": edited or None}
        asked.append(question_of(form.ask, form.prompt, words, of_slider=of_slider, **same))
    if not asked:
        raise QueryError(
            "nothing is asked yet: write a prompt and choose words of it, or the picture as a whole"
        )
    return asked


def _edited(form: Form) -> list[str]:
    """For each concept the prompt without it as a person has it; "" as it would be anyway."""
    given = [*form.against, *[""] * len(form.concepts)]
    usual = [without(form.prompt, words) for words in form.concepts]
    return [
        line if " ".join(line.split()) not in ("", " ".join(whole.split())) else ""
        for line, whole in zip(given, usual, strict=False)
    ]


def settled(form: Form, index: Index) -> Form:
    """The form with what is asked of its words, where it leaves that to the method.

    Where a person edited the prompt without them, that is their direction.
    """
    if form.ask:
        return form
    usual = usual_ask(form.method or None, index.recipe.method, index.methods())
    return replace(form, ask=SLIDER if any(_edited(form)) else usual)


def options_of(form: Form) -> dict[str, Any]:
    """How a form wants its questions answered, as `Session.attribute` takes it."""
    return {
        "method": form.method or None,
        "damping": form.damping,
        "where": form.where,
        "group_by": form.group_by or None,
        "left_out": form.left_out,
    }


def stages(index: Index, form: Form, kinds: Iterable[str]) -> list[Form]:
    """What is asked on the way to a form's answer, and the form.

    A method that goes on from the draws that were made shows a first answer early.

    Args:
        kinds: of the questions, keys of `methods.row.QUESTIONS`.

    Raises:
        MethodError: one of them cannot be asked.
    """
    methods = _methods(index, form, kinds)
    if not _go_on(methods) or form.draws <= FIRST_DRAWS:
        return [form]
    soon, first = replace(form, draws=FIRST_DRAWS), next(iter(methods))
    if len(methods) == 1 and first.sooner:
        # at the damping of what is to come, whose draws these are
        soon = replace(soon, method=first.sooner, damping=form.damping or first.damping)
    return [soon, form]


def stages_of_more(index: Index, form: Form, made: int, kinds: Iterable[str]) -> list[Form]:
    """What is asked on the way from so many draws to a form's, and the form.

    Where draws go on from those that were made, so that errors shrink while one looks.

    Raises:
        MethodError: one of the questions cannot be asked.
    """
    if not _go_on(_methods(index, form, kinds)):
        return [form]
    step = KEPT_BY * max(1, (form.draws - made) // (KEPT_BY * MOST_STAGES))
    draws = range(made - made % step + step, form.draws, step)
    return [*(replace(form, draws=each) for each in draws), form]


def _methods(index: Index, form: Form, kinds: Iterable[str]) -> set[Method]:
    known = form.method or None, index.recipe.method, index.methods()
    return {choose(*known, kind) for kind in kinds}


def _go_on(methods: Iterable[Method]) -> bool:
    """Whether one of them goes on from the draws that were made."""
    return any(method.scorer in TOGETHER for method in methods)


def words_of(prompt: str) -> list[str]:
    """The words of a prompt that may be chosen, each once."""
    return content_words(prompt[:MOST_LETTERS])


def complements(prompt: str, concepts: Sequence[str]) -> str:
    r"""The prompt without each concept, one a line.

    >>> complements("a red star", ("red", "star"))
    'a star\na red'
    """
    return "\n".join(without(prompt, words) for words in concepts)


def complements_key(prompt: str, concepts: Sequence[str]) -> str:
    """What complements are of. One that is of another prompt or other words was not edited."""
    return "\n".join((prompt, *concepts))


def lines_of(text: str) -> tuple[str, ...]:
    """Its lines, without those that say nothing."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _require_bounds(form: Form) -> None:
    texts = [form.index, form.prompt, *form.concepts, *form.against, *form.where, form.group_by]
    texts += form.left_out
    if any(len(text) > MOST_LETTERS for text in texts):
        raise QueryError(f"a text has more than {MOST_LETTERS:,} letters: shorten it")
    if form.ask not in ASKED_FOR:
        raise QueryError(
            f"nothing is called {form.ask!r}: ask for {', '.join(filter(None, ASKED_FOR))}"
        )
    if len(form.concepts) > MOST_CONCEPTS:
        raise QueryError(f"{len(form.concepts)} concepts are more than {MOST_CONCEPTS}: take fewer")
    if len(form.left_out) > MOST_LEFT_OUT:
        raise QueryError(
            f"{len(form.left_out)} images are more than {MOST_LEFT_OUT} to leave out: put some back"
        )
    if len(form.where) > MOST_LINES:
        raise QueryError(f"{len(form.where)} conditions are more than {MOST_LINES}: take fewer")
    if form.group_by.endswith(".csv") or "/" in form.group_by or "\\" in form.group_by:
        raise QueryError(f"{form.group_by!r} looks like a file: name a field, such as folder")
    _require_between("seed", form.seed, 0, _GREATEST_SEED)
    _require_between("draws", form.draws, 1, MOST_DRAWS)
    _require_between("images shown", form.shown, 1, MOST_SHOWN)
    _require_between("guidance", form.guidance, 0, 100)
    _require_between("damping", form.damping or 0, 0, 1_000_000)


def _require_between(name: str, value: float, least: float, most: float) -> None:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise QueryError(f"{name} is no number: give one from {least:,} to {most:,}")
    if not least <= value <= most:
        raise QueryError(f"{name} {value:,} is out of its bounds, {least:,} to {most:,}")


def asked_words(values: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The prompt, and what of it is asked for: chosen words and phrases."""
    several = (*(values["concepts"] or ()), *lines_of(values["phrase"] or ""))
    return (values["prompt"] or "").strip(), tuple(dict.fromkeys(several))


def form_of(values: Mapping[str, Any]) -> Form:
    """The form that the page's controls hold, by their names.

    Raises:
        QueryError: a number is missing, or a value is out of its bounds.
    """
    whole_numbers = {}
    for name, said in (("seed", "seed"), ("draws", "draws"), ("shown", "images shown")):
        if values[name] is None or values[name] != int(values[name]):
            raise QueryError(f"{said} is no whole number: give one")
        whole_numbers[name] = int(values[name])
    if values["guidance"] is None:
        raise QueryError("guidance is no number: give one")
    prompt, concepts = asked_words(values)
    written = values["against"] or ""
    if values["against_of"] != complements_key(prompt, concepts):
        written = ""  # it stands there from before
    form = Form(
        index=values["index"] or "",
        prompt=prompt,
        concepts=concepts,
        against=tuple(written.splitlines()),
        ask=values["ask_for"] or "",
        whole=bool(values["whole"]),
        guidance=float(values["guidance"]),
        method=values["method"] or "",
        damping=values["damping"] or None,
        where=lines_of(values["where"] or ""),
        group_by=(values["group_by"] or "").strip(),
        left_out=tuple(values["left_out"] or ()),
        **whole_numbers,
    )
    _require_bounds(form)
    return form
