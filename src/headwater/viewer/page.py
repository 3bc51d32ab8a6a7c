"""The page: which controls stand where, and what is called when one is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio import themes

from headwater.errors import HeadwaterError
from headwater.features.spec import DRAWS, MOST_DRAWS
from headwater.report.rendering import render
from headwater.viewer import desk as doing
from headwater.viewer import fragments
from headwater.viewer.desk import Desk, Updates
from headwater.viewer.editor import picture_editor
from headwater.viewer.form import MOST_LETTERS, MOST_SHOWN

EXAMPLE = "a red star in hatched style on a striped background"
# What is clicked in a fragment is told by the row that stands in its data.
_TELL_ROW = """
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-row]');
  if (card) trigger('click', {row: Number(card.dataset.row)});
});
"""
_SHOW_LINK = "(link) => { if (link) window.history.replaceState(null, '', link); }"

_DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)

Controls = dict[str, Any]
# Takes the desk, what the controls hold, and (where something is clicked) which row.
Handler = Callable[..., Updates]


def build(desk: Desk) -> gr.Blocks:
    """The page on some sessions."""
    page = gr.Blocks(title="headwater", analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        names = list(desk.sessions)
        gr.HTML(fragments.head(desk.sessions[names[0]]))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                controls = _asking(names) | _choosing(desk)
            with gr.Column(scale=5, min_width=320):
                controls |= _going() | _looking(names)
        for name in ("found", "row", "steps", "words"):
            controls[name] = gr.State(None)
        _wire(desk, page, controls)
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


# --- controls -------------------------------------------------------------------------------------


def _asking(names: list[str]) -> Controls:
    """What is asked about."""
    controls: Controls = {}
    controls["index"] = gr.Dropdown(names, value=names[0], label="Index", visible=len(names) > 1)
    with gr.Tabs():
        with gr.Tab("Words"):
            controls["prompt"] = gr.Textbox(
                label="Prompt", lines=2, max_length=MOST_LETTERS, placeholder=EXAMPLE
            )
            controls["concepts"] = gr.CheckboxGroup(
                [], label="Words to ask about", info="Each is a question of its own."
            )
            controls["phrase"] = gr.Textbox(
                label="Or a phrase of the prompt", max_length=MOST_LETTERS
            )
            controls["against"] = gr.Textbox(
                label="The prompt without each, one a line",
                info="Edit a line to ask against something else, such as a star for a moon.",
                lines=2,
                max_length=8 * MOST_LETTERS,
                elem_id="against",
            )
            controls["whole"] = gr.Checkbox(label="Also the picture as a whole")
            with gr.Row():
                controls["ask"] = gr.Button("Ask", variant="primary", elem_id="ask")
                controls["draw"] = gr.Button("Draw the prompt")
        with gr.Tab("A picture"):
            controls["painted"] = picture_editor(
                label="Drop a picture; paint the part that is meant, or nothing for all of it",
                type="pil",
                sources=("upload", "clipboard"),
                brush=gr.Brush(colors=["#d55e00"], color_mode="fixed"),
                layers=False,
                transforms=(),
                elem_id="painted",
            )
            controls["picture_prompt"] = gr.Textbox(
                label="What it is a picture of", max_length=MOST_LETTERS
            )
            controls["ask_of_picture"] = gr.Button("Ask about this picture", variant="primary")
        with gr.Tab("A training image"):
            controls["search"] = gr.Textbox(
                label="Find by words of its caption", submit_btn="Find", max_length=MOST_LETTERS
            )
            controls["tiles"] = _clickable()
            controls["ask_taught"] = gr.Button("What did the chosen one teach?", variant="primary")
            controls["taught"] = gr.HTML()
    return controls


def _choosing(desk: Desk) -> Controls:
    """How it is answered."""
    controls: Controls = {}
    methods = list(dict.fromkeys(m for s in desk.sessions.values() for m in s.index.methods()))
    with gr.Row():
        controls["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
        controls["guidance"] = gr.Number(5.0, label="Guidance", minimum=0, min_width=90)
        controls["shown"] = gr.Number(
            10, label="Shown", precision=0, minimum=1, maximum=MOST_SHOWN, min_width=90
        )
    with gr.Accordion("Choices", open=False):
        controls["method"] = gr.Dropdown(
            [("the index's own", ""), *((m, m) for m in methods)], value="", label="Method"
        )
        controls["damping"] = gr.Dropdown(
            [("the method's own", 0.0), *((f"{each:g}", each) for each in _DAMPINGS)],
            value=0.0,
            label="Damping",
            info="How strongly what all images have in common is left in.",
        )
        controls["draws"] = gr.Slider(1, MOST_DRAWS, DRAWS, step=1, label="Draws")
        controls["where"] = gr.Textbox(
            label="Only images where", lines=2, placeholder="caption contains star",
            info="FIELD [not] contains|is|matches VALUE, one a line.",
        )  # fmt: skip
        controls["group_by"] = gr.Dropdown(
            [("nothing", ""), "folder"],
            value="",
            label="Group by",
            allow_custom_value=True,
            info="folder, or a column of the data such as artist.",
        )
        controls["left_out"] = gr.Dropdown(
            [],
            multiselect=True,
            label="Left out of the ranking",
            info="What if these were not in the training set? An estimate.",
        )
    return controls


def _going() -> Controls:
    """What goes on."""
    with gr.Row():
        status = gr.HTML(fragments.status("Ready."), elem_id="status")
        more = gr.Button("More draws", size="sm", scale=0, min_width=120)
        cancel = gr.Button("Cancel", size="sm", scale=0, min_width=90)
    return {"more": more, "cancel": cancel, "status": status}


def _looking(names: list[str]) -> Controls:
    """What is shown."""
    controls: Controls = {}
    controls["pictures"] = gr.HTML()
    with gr.Tabs():
        with gr.Tab("Answer"):
            controls["detail"] = _clickable()
            controls["leave_out"] = gr.Button(
                "Leave the chosen image out of the ranking", size="sm", visible=False
            )
            controls["answers"] = _clickable("answers")
        with gr.Tab("Journey"):
            controls["ask_journey"] = gr.Button("Follow the picture's making")
            controls["step"] = gr.Slider(1, 2, 1, step=1, label="Step", interactive=False)
            controls["journey"] = _clickable()
        with gr.Tab("Distribution"):
            controls["distribution"] = gr.HTML(elem_id="distribution")
        with gr.Tab("Compare", visible=len(names) > 1):
            controls["other"] = gr.Dropdown(names, value=names[-1], label="The other index")
            controls["ask_other"] = gr.Button("Ask the other the same")
            controls["compared"] = gr.HTML()
        with gr.Tab("Keep"):
            controls["ask_files"] = gr.Button("Write the report and all scores")
            controls["files"] = gr.Files(
                label="Files", interactive=False, visible=False, elem_id="files"
            )
            controls["link"] = gr.Textbox(
                label="A link to this question, after the address of this page",
                interactive=False,
                buttons=["copy"],
                elem_id="link",
            )
    return controls


def _clickable(name: str | None = None) -> gr.HTML:
    return gr.HTML(js_on_load=_TELL_ROW, elem_id=name)


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
            for update in _safely(handler(desk, values, *more)):
                yield _in_order(update, names)

        return {
            "fn": run,
            "inputs": set(read.values()),
            "outputs": list(changing.values()),
            "api_visibility": "private",
            "show_progress": "hidden",
        }

    _ask_on(controls, called)
    _look_on(controls, called)
    _start(desk, page, controls)


def _without_editor(controls: Controls) -> Controls:
    return {n: each for n, each in controls.items() if not isinstance(each, gr.ImageEditor)}


def _row_of(event: gr.EventData) -> Any:
    """What the browser says was clicked, whatever that is."""
    told = getattr(event, "_data", None)
    return told.get("row") if isinstance(told, dict) else None


def _ask_on(controls: Controls, called: Callable[..., dict[str, Any]]) -> None:
    """What asks the model: one at a time, for all who look; it can be cancelled."""
    # "once" would leave a button dead that was cancelled (gradio 6.31)
    slow = {"concurrency_id": "asking", "concurrency_limit": 1, "trigger_mode": "multiple"}
    asking = {
        "ask": doing.ask,
        "ask_of_picture": doing.ask_of_picture,
        "more": doing.more,
        "ask_taught": doing.taught,
        "draw": doing.draw,
        "ask_journey": doing.journey,
        "ask_other": doing.compare,
        "ask_files": doing.keep,
    }
    events = [controls[name].click(**called(handler), **slow) for name, handler in asking.items()]
    controls["prompt"].submit(**called(doing.prompted))
    controls["link"].change(None, controls["link"], js=_SHOW_LINK)
    controls["cancel"].click(
        lambda: fragments.status("Cancelled. What was made is kept: ask again to go on."),
        outputs=controls["status"],
        cancels=events,
        queue=False,
        api_visibility="private",
    )


def _look_on(controls: Controls, called: Callable[..., dict[str, Any]]) -> None:
    """What is looked at, soon."""
    quick = {"concurrency_id": "looking", "concurrency_limit": 2}
    controls["prompt"].change(**called(doing.prompted), trigger_mode="always_last")
    for name in ("concepts", "phrase"):
        controls[name].input(**called(doing.chosen), trigger_mode="always_last")
    for name in ("damping", "shown", "group_by", "where"):
        event = controls[name].submit if name == "where" else controls[name].input
        event(**called(doing.again), **quick, trigger_mode="always_last")
    for name in ("answers", "detail", "tiles", "journey"):
        controls[name].click(**called(doing.look, clicked=True), **quick)
    controls["leave_out"].click(**called(doing.leave_out), **quick)
    controls["left_out"].input(**called(doing.left_out), **quick)
    controls["search"].submit(**called(doing.search), **quick)
    controls["step"].input(**called(doing.step), **quick, trigger_mode="always_last")


def _start(desk: Desk, page: gr.Blocks, controls: Controls) -> None:
    """What a link asks is asked when the page opens."""
    first, changing = next(iter(desk.sessions)), _changing(controls)
    names = list(changing)

    def start(request: gr.Request) -> Any:
        link = list(request.query_params.multi_items()) if request else []
        values = {"index": first, "found": None, "left_out": []}
        for update in _safely(doing.opened(desk, values, link)):
            yield _in_order(update, names)

    page.load(
        start,
        outputs=list(changing.values()),
        api_visibility="private",
        show_progress="hidden",
        concurrency_id="asking",
        concurrency_limit=1,
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


def _safely(updates: Updates) -> Updates:
    """Updates up to an error that a person can mend, which is said; at least one, of nothing."""
    try:
        yield from updates
        yield {}
    except HeadwaterError as error:
        yield {"status": fragments.status(str(error), error=True)}
