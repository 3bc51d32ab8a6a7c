"""What takes long says how far it is, and ends when nobody waits for it."""

import itertools
import threading
from dataclasses import replace

import pytest
from support.page import FRESH, done

from headwater.errors import QueryError
from headwater.runtime.progress import ProgressBar
from headwater.viewer import desk as doing
from headwater.viewer.answers import progress, stages
from headwater.viewer.answers.progress import watched
from headwater.viewer.form import Form, stages_of_more

LONG = 60  # seconds until a test gives up


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)


def ended(updates):
    """What work made, and all that was said meanwhile."""
    said = []
    while True:
        try:
            said.append(next(updates))
        except StopIteration as end:
            return end.value, said


def test_it_is_said_how_far_work_is():
    go_on = threading.Event()

    def work() -> str:
        with ProgressBar(total=3, desc="gradients of <star>", unit="draw") as bar:
            bar.update(2)
            go_on.wait(LONG)
        return "made"

    updates, said = watched(work), ""
    while "2 of 3" not in said:
        said = next(updates).get("status", "")
    assert "Gradients of &lt;star&gt;: 2 of 3 draws." in said
    assert next(updates) == {}, "nothing is told twice"
    go_on.set()
    assert ended(updates)[0] == "made"


def test_quiet_work_says_nothing():
    made, said = ended(watched(lambda: [*ProgressBar(range(9), desc="picture")], quiet=True))
    assert made == [*range(9)] and not any(said)


def test_what_work_raises_is_raised():
    def work() -> None:
        raise QueryError("there is none: give one")

    with pytest.raises(QueryError, match="there is none"):
        ended(watched(work))


@pytest.mark.parametrize("asked", [doing.ask, doing.more])
def test_what_is_cancelled_lets_the_next_question_in(desk, sessions, star, monkeypatch, asked):
    """Work that would go on for ever holds the lock of the session until its next bar."""
    begun = threading.Event()

    def for_ever(session, *_):
        with session.lock:
            for _ in ProgressBar(itertools.count(), desc="gradients", unit="draw"):
                begun.set()

    with monkeypatch.context() as patched:
        patched.setattr(stages, "answered", for_ever)
        updates = asked(desk, star)
        while not begun.is_set():
            next(updates)
        updates.close()  # as the page does
        lock = sessions["all"].lock
        assert lock.acquire(timeout=LONG)
        lock.release()
    assert done(doing.ask(desk, FRESH))["found"].last


def test_more_draws_are_shown_as_they_come(desk, star):
    """Errors shrink while one looks."""
    shown = [update for update in doing.more(desk, star) if "found" in update]
    assert [update["found"].draws for update in shown] == [8, 12]
    assert [update["found"].last for update in shown] == [False, True]
    assert "8 draws; more are being made" in shown[0]["status"]
    # of an answer that was cancelled, those that are still to come
    early = star | {"found": shown[0]["found"]}
    assert done(doing.more(desk, early))["found"].draws == 12


@pytest.mark.parametrize(
    "made, draws, shown",
    [
        (4, 8, [8]),
        (32, 64, [40, 48, 56, 64]),
        (64, 128, [80, 96, 112, 128]),
        (128, 256, [160, 192, 224, 256]),
        (12, 24, [16, 24]),
    ],
)
def test_where_more_draws_are_shown(sessions, made, draws, shown):
    """Where rows are kept, so that none is made twice, and seldom enough for a large index."""
    form = Form("a red star", ("star",), draws=draws)
    found = stages_of_more(sessions["all"].index, form, made, ["concept"])
    assert [stage.draws for stage in found] == shown
    alone = replace(form, method="presence")
    assert stages_of_more(sessions["all"].index, alone, made, ["concept"]) == [alone]
