"""What calls of the page wait for, and how their answers are sent: without a browser."""

import asyncio
import json
from typing import Any

import pytest

from headwater.viewer.desk import Desk
from headwater.viewer.serve import import_gradio


@pytest.fixture(scope="module")
def gr() -> Any:
    """Gradio, which takes seconds to import: not by every process that collects tests."""
    import_gradio()
    import gradio

    return gradio


@pytest.fixture
def page(gr, desk, monkeypatch) -> tuple[Any, Any]:
    """A page and its controls by name."""
    from headwater.viewer import page as paging

    made, make = [], paging.controls_of

    def kept(desk) -> Any:
        made.append(make(desk))
        return made[0]

    async def built() -> paging.Page:  # where no loop runs gradio begins one, and does not end it
        return paging.build(desk)

    monkeypatch.setattr(paging, "controls_of", kept)
    return asyncio.run(built()), made[0]


# Whatever changes the answer that is looked at goes on from the one before it.
CHANGING = {
    **dict.fromkeys(("ask", "ask_of_picture", "more", "leave_out"), "click"),
    **dict.fromkeys(("damping", "shown", "group_by", "left_out"), "input"),
    "where": "submit",
}


def test_what_changes_the_answer_is_done_one_after_the_other(page):
    """So the first stage of an answer, without an image, never follows the whole answer."""
    page, controls = page
    for name, event in CHANGING.items():
        target = (controls[name]._id, event)
        (call,) = (each for each in page.fns.values() if target in each.targets and each.outputs)
        assert (call.concurrency_id, call.concurrency_limit) == ("asking", 1), name


def test_the_browser_tells_which_image_it_showed(gr, page):
    """With the click; a state is read when the call's turn comes, and is of another image then."""
    page, controls = page
    for name in ("row", "row_of"):
        assert not isinstance(controls[name], gr.State), name
        target = (controls["leave_out"]._id, "click")
        (call,) = (each for each in page.fns.values() if target in each.targets)
        assert controls[name] in call.inputs, name


def in_the_browser(messages: list[list[Any]]) -> list[list[Any]]:
    """Outputs by message as gradio's browser side has them once all have come.

    The changes that a message tells are made in the outputs of the one before it.
    """
    shown = [list(messages[0])]
    for changes in messages[1:]:
        shown.append([_changed(*each) for each in zip(shown[-1], changes, strict=True)])
    return shown


def _changed(value: Any, edits: list[Any]) -> Any:
    for action, path, new in edits:
        if not path:
            value = value + new if action == "append" else new
            continue
        within = value
        for step in path[:-1]:
            within = within[step]
        if action == "delete":
            del within[path[-1]]
        else:
            assert action in ("add", "replace") and isinstance(within, dict), (action, path)
            within[path[-1]] = new
    return value


def sent(page: Any, call: Any, updates: list[list[Any]]) -> list[list[Any]]:
    """What goes to the browser of these updates of one call."""
    run = {"session_hash": "a visitor", "run": "a run", "final": False}
    return [
        json.loads(json.dumps(page.handle_streaming_diffs(call, list(update), **run)))
        for update in updates
    ]


def test_an_update_says_what_it_says_though_the_next_has_come(gr, page):
    """A browser that is busy, or told late that its click was taken, hears both at once."""
    page, controls = page
    target = (controls["leave_out"]._id, "click")
    (call,) = (each for each in page.fns.values() if target in each.targets)
    skip, seen = {"__type__": "update"}, {"__type__": "update", "visible": True}
    listed = {"__type__": "update", "choices": ["a", "b"], "value": ["a"]}
    rest = [skip] * (len(call.outputs) - 4)
    updates = [
        [seen, listed, "a star", None, *rest],
        [skip, skip, "a star and more", 5, *rest],
        [skip, skip, skip, skip, *rest],
    ]
    assert in_the_browser(sent(page, call, updates)) == updates
    # as gradio by itself would have it
    by_itself = gr.Blocks.handle_streaming_diffs
    run = {"session_hash": "another", "run": "a run", "final": False}
    raw = [json.loads(json.dumps(by_itself(page, call, list(each), **run))) for each in updates]
    assert in_the_browser(raw)[0][0] == skip, "then the page need not be more than gr.Blocks"


def test_the_last_update_is_sent_as_it_is(page):
    page, controls = page
    target = (controls["leave_out"]._id, "click")
    (call,) = (each for each in page.fns.values() if target in each.targets)
    update = ["a star"] * len(call.outputs)
    sent(page, call, [update])
    run = {"session_hash": "a visitor", "run": "a run"}
    ended = page.handle_streaming_diffs(call, [None] * len(update), **run, final=True)
    assert ended == update


@pytest.mark.parametrize("name, seen", [("all", False), ("journeys", True)])
def test_no_button_begins_a_journey_that_no_index_serves(gr, sessions, tmp_path, name, seen):
    from headwater.viewer.controls import controls_of

    async def made() -> Any:
        with gr.Blocks():
            return controls_of(Desk({name: sessions[name]}, tmp_path))

    controls = asyncio.run(made())
    assert controls["ask_journey"].visible is seen and controls["step"].visible is seen
