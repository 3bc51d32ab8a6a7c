"""What stands beside an answer, as `desk` does it.

Pictures, a journey, what one image taught, another index, files.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from headwater.errors import QueryError
from headwater.report.export import folders, write_answers
from headwater.upkeep.answers import export_answers
from headwater.viewer import answers, fragments
from headwater.viewer.desk import Desk, Updates, Values, found_of, look, looked_at
from headwater.viewer.form import form_of, settled

_KEPT, _KEPT_FOR = "kept-", 3600  # folders of downloads, and for how many seconds


def draw(desk: Desk, values: Values) -> Updates:
    """What the model makes of the prompt."""
    form = form_of(values)
    if not form.prompt:
        raise QueryError("there is no prompt yet: write one")
    yield {"status": fragments.status("Drawing.")}
    image = answers.drawn(desk.chosen(values["index"]), form.prompt, form)
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
    drawn, waiting = [], answers.pictured(form)
    while waiting:
        yield {"pictures": fragments.pictures(drawn, [said for said, _ in waiting])}
        said, prompt = waiting.pop(0)
        drawn.append((said, answers.drawn(session, prompt, form)))
    yield {"pictures": fragments.pictures(drawn)}


def refreshed(desk: Desk, values: Values) -> Updates:
    """The details that stand open, with the ranks of the answer as it is now."""
    row, of_answer = values["row"], values["row_of"] == values["index"]
    if row is not None and of_answer and values["found"] is not None:
        yield from look(desk, values, row)


def journey(desk: Desk, values: Values) -> Updates:
    """The answers at every step of the picture's making."""
    yield {"status": fragments.status("Asking at each step.")}
    steps = answers.journey(desk.chosen(values["index"]), form_of(values))
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
    rows = answers.search(session, words)
    empty = f"No caption holds “{words}”."
    yield {"tiles": fragments.tiles(session, rows, empty)}


def taught(desk: Desk, values: Values) -> Updates:
    """What the image that is looked at taught the model."""
    session, row = looked_at(desk, values)
    yield {"status": fragments.status("Asking for each thing that its caption names.")}
    for draws, places in answers.taught(session, row, settled(form_of(values), session.index)):
        said = fragments.taught(session.index.samples[row], places)
        yield {"taught": said, "status": fragments.status(f"{draws} draws.")}


def compare(desk: Desk, values: Values) -> Updates:
    """The answers of another index to the same questions, beside these."""
    found, name = found_of(values), values["other"]
    other = desk.chosen(name)
    yield {"status": fragments.status("Asking the other index.")}
    there = answers.answered(other, found.form, found.draws)
    session, here = desk.session(values), desk.name_of(found.answers[0].index)
    both = answers.rankings(session, found), answers.rankings(other, there)
    yield {
        "compared": fragments.compared(*both, (here, name)),
        "status": fragments.status(f"{here} beside {name}."),
    }


def keep(desk: Desk, values: Values) -> Updates:
    """The report, and every score, as files."""
    found = found_of(values)
    yield {"status": fragments.status("Writing the files.")}
    _tidy(desk.folder)
    kept, form = Path(tempfile.mkdtemp(dir=desk.folder, prefix=_KEPT)), found.form
    with tempfile.TemporaryDirectory(dir=desk.folder) as working:
        out, session = Path(working), desk.session(values)
        with session.lock:
            write_answers(session, found.answers, out, guidance=form.guidance, top=form.shown)
        files = [Path(shutil.copy(out / "report.html", kept))]
        files += [
            Path(shutil.copy(out / name / "result.json", kept / f"{name}.json"))
            for name in folders(found.answers)
        ]
        for end in ("csv", "parquet"):
            export_answers(out, kept / f"scores.{end}")
            files.append(kept / f"scores.{end}")
        files.append(Path(shutil.make_archive(str(kept / "answer"), "zip", out)))
    yield {
        "files": {"value": [str(file) for file in files], "visible": True},
        "status": fragments.status("The report prints to paper or PDF from any browser."),
    }


def _tidy(folder: Path) -> None:
    """Remove what was downloaded long ago."""
    for kept in folder.glob(f"{_KEPT}*"):
        if time.time() - kept.stat().st_mtime > _KEPT_FOR:
            shutil.rmtree(kept, ignore_errors=True)
