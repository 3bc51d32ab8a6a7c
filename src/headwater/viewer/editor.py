"""Where a picture is dropped and a part of it painted: gradio's editor, which decodes nothing here.

Its own decoding would open whatever it is given; `uploads` looks at sizes and formats first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.components.base import server
from gradio.components.image_editor import EditorData


class Painted(NamedTuple):
    """What was dropped and painted, as files that gradio took; None where nothing was."""

    background: Path | None
    layers: list[Path]


def picture_editor(**options: Any) -> gr.ImageEditor:
    """An editor whose value is a `Painted`, or None.

    Two functions are replaced on the object: gradio writes a file beside each module that derives a
    class from one of its own.

    Args:
        options: of `gradio.ImageEditor`.
    """
    editor = gr.ImageEditor(**options)

    @server
    def accept_blobs(data: Any) -> None:
        """Refused: files are uploaded, and limited in size there."""
        raise gr.Error("Upload the picture as a file.")

    def preprocess(payload: EditorData | None) -> Painted | None:
        """The files, not decoded. That they are uploads of its own gradio has looked at before."""
        if payload is None:
            return None
        background = None if payload.background is None else Path(payload.background.path)
        return Painted(background, [Path(layer.path) for layer in payload.layers if layer])

    editor.accept_blobs = accept_blobs
    editor.preprocess = preprocess
    return editor
