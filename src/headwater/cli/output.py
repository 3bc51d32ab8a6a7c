"""What every question ends in: the folder of its answer, and a table or JSON on stdout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cli.tables import journey_table, table
from headwater.errors import ParameterError
from headwater.runtime.console import json_line, printable, say

if TYPE_CHECKING:
    from headwater.attribution.answer.result import Attribution
    from headwater.attribution.session import Session
    from headwater.attribution.trajectory import Judge
    from headwater.queries.image import Image
    from headwater.queries.query import Question
    from headwater.report.journeys.journey import Journey


# What a command line says of how an answer is computed and shown, not of what is asked.
_ASIDE = ("out", "top", "as_json", "fresh", "device", "engine", "jobs", "judge", "layout")
# How an answer may be laid out, and where to look at it then, in its folder.
LAYOUTS = {"headwater": "Report: {}/report.html", "concept-trak": "Folders: {}"}
# Letters of the words in a folder's name.
LONGEST = 48


def default_folder(queries: Sequence[Question], given: Mapping[str, Any]) -> Path:
    """Where an answer goes that was given no folder: always the same, and to no other question's.

    Its name says the question in a few words; what they leave out, a digest tells apart.

    Args:
        queries: the question, of several concepts one for each.
        given: the command's parameters by name.
    """
    from headwater.storage.files import slug

    asked = sorted((name, str(value)) for name, value in given.items() if name not in _ASIDE)
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:6]
    words = slug(_words(queries, given))
    if len(words) > LONGEST:
        words = words[: LONGEST + 1].rpartition("-")[0] or words[:LONGEST]
    return Path("headwater-answers") / f"{words}-{queries[0].seed}-{digest}"


def _words(queries: Sequence[Question], given: Mapping[str, Any]) -> str:
    """The question in a few words, its kind first; a file goes by its stem."""
    first = queries[0]
    file = getattr(first, "file", None)
    about = Path(file).stem if file else first.prompt
    match first.kind:
        case "preference":
            return first.title
        case "feature":
            return f"feature {about}"
        case "step":
            return f"step {given['step']} {about}"
        case "image" | "patch" as kind:
            return f"{'journey' if given.get('journey') else kind} {about}"
        case kind:
            return f"{kind} {' '.join(query.title for query in queries)} in {about}"


@dataclass(frozen=True)
class Output:
    """Where an answer goes, how many entries it shows, whether JSON is printed, and its layout.

    Raises:
        ParameterError: fewer than one entry, or no such layout.
    """

    folder: Path
    top: int
    as_json: bool
    layout: str = "headwater"

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ParameterError(f"--top {self.top} must be at least 1")
        if self.layout not in LAYOUTS:
            raise ParameterError(f"--layout {self.layout!r} is none of {', '.join(LAYOUTS)}")


def answer(
    session: Session,
    queries: Sequence[Question],
    output: Output,
    guidance: float,
    options: Mapping[str, Any],
) -> None:
    """Ask each question, write the folder, print a table or JSON.

    Args:
        guidance: of the picture that stands for a question without one.
        options: of `Session.attribute`.
    """
    show(session, session.attribute(list(queries), note=say, **options), output, guidance)


def answer_along(
    session: Session,
    queries: Sequence[Question],
    output: Output,
    making: Image,
    options: Mapping[str, Any],
) -> None:
    """The same, with the journey of a picture in the same report.

    Args:
        making: the picture; each step of its making is asked by the method that is for that.
    """
    from headwater.report.journeys.trajectory import journey_of

    each = {name: value for name, value in options.items() if name not in ("method", "group_by")}
    steps = session.attribute_steps(making, note=say, **each)  # first: an index may not serve it
    answers = session.attribute(list(queries), note=say, **options)
    journey = journey_of(session, making, steps, output.top)
    show(session, answers, output, making.guidance, journey)


def show(
    session: Session,
    attributions: Sequence[Attribution],
    output: Output,
    guidance: float,
    journey: Journey | None = None,
) -> None:
    """Write the folder of answers, print a table of each or JSON."""
    from headwater.report import concept_trak, export

    write, folders = {
        "headwater": (partial(export.write_answers, journey=journey), export.folders),
        "concept-trak": (concept_trak.write_concept_trak, concept_trak.folders),
    }[output.layout]
    written = write(session, attributions, output.folder, guidance=guidance, top=output.top)
    for attribution, folder in zip(attributions, folders(attributions), strict=True):
        _save_token(session, attribution, output.folder / folder)
    tables = [
        table(attribution, result["top"])
        for attribution, result in zip(attributions, written["results"], strict=True)
    ]
    tables += [journey_table(written["journey"])] if "journey" in written else []
    _print(written, tables, output)


def answer_journey(
    session: Session,
    query: Image,
    output: Output,
    judge: Judge | None,
    options: Mapping[str, Any],
) -> None:
    """Ask of every step, write the folder, print a line for each step or JSON."""
    from headwater.report.journeys.trajectory import write_journey

    attributions = session.attribute_steps(query, note=say, **options)
    written = write_journey(session, query, attributions, output.folder, output.top, judge)
    _print(written, [journey_table(written)], output)


def _print(answer: Mapping[str, Any], tables: Sequence[str], output: Output) -> None:
    if output.as_json:
        print(json_line(answer))
    else:
        where = LAYOUTS[output.layout].format(printable(str(answer["out"])))
        print(*tables, f"\n{where}", sep="\n")


def _save_token(session: Session, attribution: Attribution, folder: Path) -> None:
    """Beside the answer, the token that was learned for it, if one was."""
    from headwater.attribution.scorers.gradient import setting_of
    from headwater.methods.choice import method_named
    from headwater.models.textual_inversion import save_token
    from headwater.queries.local.local_concept import Local

    query, method = attribution.query, method_named(attribution.method)
    if isinstance(query, Local) and "learned" in attribution.provenance["query"]:
        drawer = query.drawer(setting_of(session, method, query))
        save_token(folder / "token.safetensors", drawer.token(session.denoiser))
