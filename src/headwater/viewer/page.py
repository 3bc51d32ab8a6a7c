"""The page: what is called when one of its controls is used, and how it looks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

import gradio as gr
from gradio import themes
from gradio.events import Dependency

from headwater.errors import HeadwaterError
from headwater.report.rendering import render
from headwater.viewer import beside, fragments
from headwater.viewer import desk as doing
from headwater.viewer.controls import Controls, controls_of
from headwater.viewer.desk import Desk, Updates

_SHOW_LINK = "(link) => { if (link) window.history.replaceState(null, '', link); }"
_SHOW_DETAIL = "() => { document.querySelector('.hw-detail')?.scrollIntoView(); }"

# What changes the answer waits for its turn, for all who look: each call goes on from the answer
# that the one before it left, as gradio reads a state when a call begins. Beside each other, the
# first stage of an answer with an image left out of it would come after the whole answer, and stay.
_IN_TURN = {"concurrency_id": "asking", "concurrency_limit": 1}
_AT_ONCE = {"concurrency_id": "looking", "concurrency_limit": 2}
_WAITING = {"concurrency_id": "waiting", "concurrency_limit": 8}  # for what asks, in a thread each

# Takes the desk, what the controls hold, and (where something is clicked) which row.
Handler = Callable[..., Updates]


class Page(gr.Blocks):
    """A page that tells a browser what a control is to show now, not what is to change of it.

    Gradio (6.31) tells each update after the first by how it differs from the one before, and the
    browser makes that change in the one before, which it may not have shown yet: of an update of
    several things of a control, it loses what the next says nothing of. So a button that was to be
    seen was not, where a click was answered before the browser had heard that it was taken.
    """

    def handle_streaming_diffs(
        self, block_fn: Any, data: list[Any], *args: Any, **options: Any
    ) -> list[Any]:
        """The outputs of one update as they are sent: whole, in gradio's form of a change."""
        whole = list(data)
        sent = super().handle_streaming_diffs(block_fn, data, *args, **options)
        if options["final"]:  # all of them anew
            return sent
        return [
            value if value is now or not value else [["replace", [], now]]
            for value, now in zip(sent, whole, strict=True)
        ]


def build(desk: Desk) -> Page:
    """The page on some sessions."""
    page = Page(title="headwater", analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        _wire(desk, page, controls_of(desk))
    return page


def looks() -> dict[str, Any]:
    """Fonts, colours and styles, as `launch` takes them; nothing is loaded from elsewhere."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = themes.Default(
        primary_hue=themes.colors.cyan, font=fonts, font_mono=["ui-monospace", "monospace"]
    ).set(
        # as dark as is easily read; the usual ones are not
        body_text_color_subdued="#565d64",
        body_text_color_subdued_dark="#a8b0b7",
        block_info_text_color="#565d64",
        block_info_text_color_dark="#a8b0b7",
        button_primary_background_fill="#0b6e83",
        button_primary_background_fill_hover="#095a6b",
        button_primary_background_fill_dark="#0b6e83",
        button_primary_background_fill_hover_dark="#095a6b",
    )
    return {"theme": theme, "css": render("view/style.css")}


# --- what is called -------------------------------------------------------------------------------


def _wire(desk: Desk, page: gr.Blocks, controls: Controls) -> None:
    still = (gr.Button, gr.HTML, gr.Files)
    held = {name: each for name, each in controls.items() if not isinstance(each, still)}
    changing = _changing(controls)
    names = list(changing)

    def called(handler: Handler, clicked: bool = False) -> dict[str, Any]:
        """How `handler` is called: with what controls hold, for what they are to show."""
        # a picture is uploaded with each call that reads it
        read = dict(held) if handler is doing.ask_of_picture else _without_editor(held)

        def run(data: dict[Any, Any], event: gr.EventData) -> Any:
            values = {name: data[each] for name, each in read.items()}
            more = (_row_of(event),) if clicked else ()
            with closing(_safely(handler(desk, values, *more))) as updates:  # which ends its work
                for update in updates:
                    yield _in_order(update, names)

        return {
            "fn": run,
            "inputs": set(read.values()),
            "outputs": list(changing.values()),
            "api_visibility": "private",
            "show_progress": "hidden",
        }

    drawing = _draw_on(controls, called)  # first: what ends it runs before what is asked anew
    _ask_on(controls, called, drawing)
    _look_on(controls, called)
    _open_on(desk, page, controls)


def _without_editor(controls: Controls) -> Controls:
    return {n: each for n, each in controls.items() if not isinstance(each, gr.ImageEditor)}


def _row_of(event: gr.EventData) -> Any:
    """What the browser says was clicked, whatever that is."""
    told = getattr(event, "_data", None)
    return told.get("row") if isinstance(told, dict) else None


def _draw_on(controls: Controls, called: Callable[..., dict[str, Any]]) -> list[Dependency]:
    """What draws: one picture at a time, beside questions and behind them.

    A new question ends it, once the picture that is being drawn is done.
    """
    line = {"concurrency_id": "drawing", "concurrency_limit": 1, "trigger_mode": "multiple"}
    quietly = {"queue": False, "api_visibility": "private"}
    answered = controls["to_draw"].change(**called(beside.pictured), **line)
    controls["draw"].click(None, cancels=[answered], **quietly)
    drawing = [answered, controls["draw"].click(**called(beside.draw), **line)]
    for event in (controls["ask"].click, controls["ask_of_picture"].click, controls["index"].input):
        event(None, cancels=drawing, **quietly)
    return drawing


def _ask_on(
    controls: Controls, called: Callable[..., dict[str, Any]], drawing: Sequence[Dependency]
) -> None:
    """What asks the model: one at a time, for all who look; it can be cancelled."""
    # "once" would leave a button dead that was cancelled (gradio 6.31)
    slow = {**_IN_TURN, "trigger_mode": "multiple"}
    asking = {
        "ask": doing.ask,
        "ask_of_picture": doing.ask_of_picture,
        "more": doing.more,
        "ask_taught": beside.taught,
        "ask_journey": beside.journey,
        "ask_other": beside.compare,
        "ask_files": beside.keep,
        "leave_out": beside.leave_out,
    }
    events = [controls[name].click(**called(handler), **slow) for name, handler in asking.items()]
    for event in events:
        event.then(**called(beside.refreshed), **_AT_ONCE)
    controls["prompt"].submit(**called(doing.prompted))
    controls["link"].change(None, controls["link"], js=_SHOW_LINK)
    controls["cancel"].click(
        lambda: fragments.status(
            "Cancelled: the step at work ends first. What was made is kept: ask again to go on."
        ),
        outputs=controls["status"],
        cancels=[*events, *drawing],
        queue=False,
        api_visibility="private",
    )


def _look_on(controls: Controls, called: Callable[..., dict[str, Any]]) -> None:
    """What is looked at, soon."""
    controls["prompt"].change(**called(doing.prompted), trigger_mode="always_last")
    for name in ("concepts", "phrase"):
        controls[name].input(**called(doing.chosen), trigger_mode="always_last")
    for name in ("damping", "shown", "group_by", "where"):
        event = controls[name].submit if name == "where" else controls[name].input
        told = event(**called(doing.again), **_IN_TURN, trigger_mode="always_last")
        told.then(**called(beside.refreshed), **_AT_ONCE)
    clicked = ("answers", "detail", "neighbours", "tiles", "journey")
    looked = [controls[n].click(**called(beside.look, clicked=True), **_AT_ONCE) for n in clicked]
    for event in looked:
        event.then(None, js=_SHOW_DETAIL)
    # of the image before they are not waited for any more
    waiting = [event.then(**called(beside.neighbours), **_WAITING) for event in looked]
    for name in clicked:
        controls[name].click(None, cancels=waiting, queue=False, api_visibility="private")
    controls["index"].input(**called(doing.switched), **_AT_ONCE)
    told = controls["left_out"].input(
        **called(beside.left_out), **_IN_TURN, trigger_mode="always_last"
    )
    told.then(**called(beside.refreshed), **_AT_ONCE)
    controls["search"].submit(**called(beside.search), **_AT_ONCE)
    controls["step"].input(**called(beside.step), **_AT_ONCE, trigger_mode="always_last")


def _open_on(desk: Desk, page: gr.Blocks, controls: Controls) -> None:
    """What a link asks is asked when the page opens."""
    first, changing = next(iter(desk.sessions)), _changing(controls)
    names = list(changing)

    def start(request: gr.Request) -> Any:
        link = list(request.query_params.multi_items()) if request else []
        values = {"index": first, "found": None}
        with closing(_safely(doing.opened(desk, values, link))) as updates:
            for update in updates:
                yield _in_order(update, names)

    page.load(
        start,
        outputs=list(changing.values()),
        api_visibility="private",
        show_progress="hidden",
        **_IN_TURN,
    )


def _changing(controls: Controls) -> Controls:
    """The controls that a handler may change."""
    fixed = _without_editor(controls).items()
    return {n: each for n, each in fixed if n == "leave_out" or not isinstance(each, gr.Button)}


def _in_order(update: dict[str, Any], names: list[str]) -> list[Any]:
    """Updates by name as a value for each control: a dict changes several things of it."""
    return [
        gr.skip() if name not in update
        else gr.update(**update[name]) if isinstance(update[name], dict)
        else update[name]
        for name in names
    ]  # fmt: skip


def _safely(updates: Updates) -> Generator[dict[str, Any], None, None]:
    """Updates up to an error that a person can mend, which is said; at least one, of nothing."""
    try:
        yield from updates
        yield {}
    except HeadwaterError as error:
        yield {"status": fragments.status(str(error), error=True)}
