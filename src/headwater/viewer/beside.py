"""What stands beside an answer, as `desk` does it.

One image, and what it would be without it; pictures, a journey, another index, files.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from headwater.attribution.session import Session
from headwater.errors import QueryError
from headwater.index.samples import rows_by_id
from headwater.queries.image import Image
from headwater.report.export import folders, write_answers
from headwater.report.journeys.journey import Journey
from headwater.report.journeys.trajectory import journey_of
from headwater.upkeep.answers import export_answers
from headwater.viewer import fragments
from headwater.viewer.answers import one_image, pictures
from headwater.viewer.answers.progress import watched
from headwater.viewer.answers.stages import Found, answered
from headwater.viewer.desk import STALE, Desk, Updates, Values, found_of, show
from headwater.viewer.form import form_of, settled

_KEPT, _KEPT_FOR = "kept-", 3600  # folders of downloads, and for how many seconds


def look(desk: Desk, values: Values, row: Any) -> Updates:
    """What is known of the image that was clicked, but for its neighbours."""
    session, found = desk.session(values), values["found"]
    if isinstance(row, bool) or not isinstance(row, int):
        raise QueryError("that is no image: click one that is shown")
    shown = one_image.detail(session, found, row)
    concepts = found.form.concepts if found else ()
    said = fragments.detail(session, shown, concepts)
    told = {"row": row, "row_of": desk.name_of(session.index), "detail": said}
    yield told | {"leave_out": {"visible": found is not None}}


def neighbours(desk: Desk, values: Values) -> Updates:
    """The nearest neighbours of the image that is looked at: once no question is being answered."""
    session, row = looked_at(desk, values)
    yield {"neighbours": fragments.neighbours(session, None)}
    yield {"neighbours": fragments.neighbours(session, one_image.neighbours(session, row))}


def leave_out(desk: Desk, values: Values) -> Updates:
    """The ranking without the image that is looked at, and what that would change."""
    found, (session, row) = found_of(values), looked_at(desk, values)
    if session is not desk.session(values):
        raise QueryError("that image is of another index than the answer: click one of the answer")
    left = dict.fromkeys([*found.form.left_out, session.index.samples[row].id])
    yield from _without(desk, found, tuple(left))


def left_out(desk: Desk, values: Values) -> Updates:
    """The ranking without the images that stand in the list."""
    if values["found"] is not None:
        yield from _without(desk, found_of(values), tuple(values["left_out"] or ()))


def _without(desk: Desk, found: Found, left_out: tuple[str, ...]) -> Updates:
    """The answer without these images, for all that shows it; no draw is made anew."""
    form, stage = (replace(each, left_out=left_out) for each in (found.form, found.stage))
    session = desk.sessions[desk.name_of(found.answers[0].index)]
    yield from show(desk, (yield from watched(lambda: answered(session, form, stage))))
    yield STALE


def looked_at(desk: Desk, values: Values) -> tuple[Session, int]:
    """The session and row of the image whose details the browser showed at the click.

    Raises:
        QueryError: there is none.
    """
    session, row = desk.chosen(values["row_of"]), values["row"]
    if row is None:
        raise QueryError("no image is looked at: click one first")
    one_image.require_row(session, row)
    return session, row


# --- pictures, another index, files ---------------------------------------------------------------


def draw(desk: Desk, values: Values) -> Updates:
    """What the model makes of the prompt."""
    form = form_of(values)
    if not form.prompt:
        raise QueryError("there is no prompt yet: write one")
    yield {"status": fragments.status("Drawing.")}
    session = desk.chosen(values["index"])
    image = yield from watched(lambda: pictures.drawn(session, form.prompt, form))
    yield {
        "pictures": fragments.pictures([(f"seed {form.seed}", image)]),
        "status": fragments.status(
            "Drawn. Ask for words of the prompt, or the picture as a whole."
        ),
    }


def pictured(desk: Desk, values: Values) -> Updates:
    """What the model makes of the prompt that was asked about, and without each concept."""
    if values["found"] is None:
        return
    form, session = found_of(values).form, desk.session(values)
    drawn, waiting = [], pictures.pictured(form)
    while waiting:
        yield {"pictures": fragments.pictures(drawn, [said for said, _ in waiting])}
        said, prompt = waiting.pop(0)
        make = partial(pictures.drawn, session, prompt, form)
        drawn.append((said, (yield from watched(make, quiet=True))))
    yield {"pictures": fragments.pictures(drawn)}


def refreshed(desk: Desk, values: Values) -> Updates:
    """The details that stand open, with the ranks of the answer as it is now."""
    row, of_answer = values["row"], values["row_of"] == values["index"]
    if row is not None and of_answer and values["found"] is not None:
        yield from look(desk, values, row)


def journey(desk: Desk, values: Values) -> Updates:
    """The answers at every step of the picture's making."""
    yield {"status": fragments.status("Asking at each step.")}
    session, form = desk.chosen(values["index"]), form_of(values)
    steps = yield from watched(lambda: pictures.journey(session, form))
    yield {
        "steps": steps,
        "step": {"minimum": 1, "maximum": len(steps), "value": 1, "interactive": True},
        "journey": fragments.step(steps, 1),
        "status": fragments.status(f"{len(steps)} steps, from noise to the picture."),
    }


def step(desk: Desk, values: Values) -> Updates:
    """The step that the slider is at."""
    steps, number = values["steps"], values["step"]
    if steps and isinstance(number, int) and 1 <= number <= len(steps):
        yield {"journey": fragments.step(steps, number)}


def search(desk: Desk, values: Values) -> Updates:
    """Training images whose captions hold some words."""
    session, words = desk.session(values), values["search"] or ""
    rows = one_image.search(session, words)
    empty = f"No caption holds “{words}”."
    yield {"tiles": fragments.tiles(session, rows, empty)}


def taught(desk: Desk, values: Values) -> Updates:
    """What the image that is looked at taught the model."""
    session, row = looked_at(desk, values)
    yield {"status": fragments.status("Asking for each thing that its caption names.")}
    asking = one_image.taught(session, row, settled(form_of(values), session.index))
    while (told := (yield from watched(lambda: next(asking, None)))) is not None:
        draws, places = told
        said = fragments.taught(session.index.samples[row], places)
        yield {"taught": said, "status": fragments.status(f"{draws} draws.")}


def compare(desk: Desk, values: Values) -> Updates:
    """The answers of another index to the same questions, beside these."""
    found, name = found_of(values), values["other"]
    other = desk.chosen(name)
    yield {"status": fragments.status("Asking the other index.")}
    known = rows_by_id(other.index.samples, set(found.form.left_out))
    form = replace(found.form, draws=found.draws, left_out=tuple(known))
    there = yield from watched(lambda: answered(other, form, form))
    here = desk.name_of(found.answers[0].index)
    yield {
        "compared": fragments.compared(found.rankings, there.rankings, (here, name)),
        "status": fragments.status(f"{here} beside {name}."),
    }


def keep(desk: Desk, values: Values) -> Updates:
    """The report, and every score, as files; with the journey that was asked for beside it."""
    found, session = found_of(values), desk.session(values)
    yield {"status": fragments.status("Writing the files.")}
    _tidy(desk.folder)
    steps = values["steps"] or ()
    files = yield from watched(lambda: _written(desk.folder, session, found, steps))
    yield {
        "files": {"value": [str(file) for file in files], "visible": True},
        "status": fragments.status("The report prints to paper or PDF from any browser."),
    }


def _written(
    folder: Path, session: Session, found: Found, steps: Sequence[pictures.Step]
) -> list[Path]:
    """The files of an answer, in a folder of their own."""
    kept, form = Path(tempfile.mkdtemp(dir=folder, prefix=_KEPT)), found.form
    with tempfile.TemporaryDirectory(dir=folder) as working:
        out = Path(working)
        with session.lock:
            journey = _journey(session, steps, form.shown) if steps else None
            shown = {"guidance": form.guidance, "top": form.shown, "journey": journey}
            write_answers(session, found.answers, out, **shown)
        files = [Path(shutil.copy(out / "report.html", kept))]
        files += [
            Path(shutil.copy(out / name / "result.json", kept / f"{name}.json"))
            for name in folders(found.answers)
        ]
        for end in ("csv", "parquet"):
            export_answers(out, kept / f"scores.{end}")
            files.append(kept / f"scores.{end}")
        files.append(Path(shutil.make_archive(str(kept / "answer"), "zip", out)))
    return files


def _journey(session: Session, steps: Sequence[pictures.Step], top: int) -> Journey:
    """What was asked of each step, as a report has it."""
    query = steps[0].answer.query
    assert isinstance(query, Image)
    return journey_of(session, replace(query, step=None), [each.answer for each in steps], top)


def _tidy(folder: Path) -> None:
    """Remove what was downloaded long ago."""
    for kept in folder.glob(f"{_KEPT}*"):
        if time.time() - kept.stat().st_mtime > _KEPT_FOR:
            shutil.rmtree(kept, ignore_errors=True)
