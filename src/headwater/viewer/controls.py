"""The controls of the page, by name, and where they stand."""

from __future__ import annotations

from typing import Any

import gradio as gr

from headwater.features.spec import DRAWS, MOST_DRAWS
from headwater.viewer import fragments
from headwater.viewer.answers.pictures import serves_journeys
from headwater.viewer.desk import Desk
from headwater.viewer.editor import picture_editor
from headwater.viewer.form import (
    ASKED_FOR,
    DAMPINGS,
    MOST_CONCEPTS,
    MOST_LETTERS,
    MOST_SHOWN,
)

EXAMPLE = "a red star in hatched style on a striped background"
# What is clicked in a fragment is told by the row that stands in its data.
_TELL_ROW = """
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-row]');
  if (card) trigger('click', {row: Number(card.dataset.row)});
});
"""

# The place, not what comes and goes in it, is what screen readers follow.
_TELL_CHANGES = "element.setAttribute('role', 'status');"

Controls = dict[str, Any]


def controls_of(desk: Desk) -> Controls:
    """All of them, made in the page that is being made."""
    names = list(desk.sessions)
    gr.HTML(fragments.head(desk.sessions))
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            controls = _asking(names) | _choosing(desk)
        with gr.Column(scale=5, min_width=320):
            controls |= _going() | _looking(desk)
    # told by the browser with a click, so that it is of the image that was seen then
    controls["row"] = gr.Number(visible="hidden", precision=0)
    controls["row_of"] = gr.Textbox(visible="hidden")
    for name in ("found", "steps", "words", "to_draw"):
        controls[name] = gr.State(None)
    return controls


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
                label="Or phrases of the prompt, one a line",
                lines=2,
                max_length=MOST_LETTERS,
            )
            controls["against"] = gr.Textbox(
                label="The prompt without each, one a line",
                info="Edit a line to ask against something else, such as a star for a moon.",
                lines=2,
                max_length=MOST_CONCEPTS * MOST_LETTERS,
                elem_id="against",
            )
            # told by the browser together with the lines, so that it is of just these
            controls["against_of"] = gr.Textbox(visible="hidden")
            controls["whole"] = gr.Checkbox(label="Also the picture as a whole")
            with gr.Row():
                controls["ask"] = gr.Button("Ask", variant="primary", elem_id="ask")
                controls["draw"] = gr.Button("Draw it")
        with gr.Tab("A picture"):
            # not as its label, over which it lays its tools
            gr.Markdown("Drop a picture; paint the part that is meant, or nothing for all of it.")
            controls["painted"] = picture_editor(
                label="Picture",
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
        controls["ask_for"] = gr.Dropdown(
            [(said, name) for name, said in ASKED_FOR.items()],
            value="",
            label="What is asked of the words",
            info="The last two ask what the model would lack without an image.",
        )
        controls["method"] = gr.Dropdown(
            [("the index's own", ""), *((m, m) for m in methods)], value="", label="Method"
        )
        controls["damping"] = gr.Dropdown(
            [("the method's own", 0.0), *((f"{each:g}", each) for each in DAMPINGS)],
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
        ready = fragments.status("Ready.")
        status = gr.HTML(ready, elem_id="status", js_on_load=_TELL_CHANGES)
        more = gr.Button("More draws", size="sm", scale=0, min_width=120)
        cancel = gr.Button("Cancel", size="sm", scale=0, min_width=90)
    return {"more": more, "cancel": cancel, "status": status}


def _looking(desk: Desk) -> Controls:
    """What is shown."""
    controls: Controls = {}
    names = list(desk.sessions)
    served = any(serves_journeys(session.index) for session in desk.sessions.values())
    controls["pictures"] = gr.HTML()
    controls["detail"] = _clickable()  # of whichever tab an image was clicked in
    controls["leave_out"] = gr.Button(
        "Leave the chosen image out of the ranking", size="sm", visible=False
    )
    controls["neighbours"] = _clickable()
    with gr.Tabs():
        with gr.Tab("Answer"):
            controls["answers"] = _clickable("answers")
        with gr.Tab("Journey"):
            gr.HTML(fragments.journeys_of(desk.sessions))
            controls["ask_journey"] = gr.Button("Follow the picture's making", visible=served)
            controls["step"] = gr.Slider(
                1, 2, 1, step=1, label="Step", interactive=False, visible=served
            )
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
