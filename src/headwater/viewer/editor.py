"""Where a picture is dropped and a part of it painted: gradio's editor, which decodes nothing here.

Its own decoding would open whatever it is given; `uploads` looks at sizes and formats first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs, EditorData

from headwater.viewer.uploads import MOST_BYTES

MOST_HELD = 32  # uploads that wait to be asked about


class Painted(NamedTuple):
    """What was dropped and painted, as the bytes that were sent; None where nothing was."""

    background: bytes | None
    layers: list[bytes]


def picture_editor(**options: Any) -> gr.ImageEditor:
    """An editor whose value is a `Painted`, or None.

    Its two functions are replaced on the object: gradio writes a file beside each module that
    derives a class from one of its own.

    Args:
        options: of `gradio.ImageEditor`.
    """
    editor = gr.ImageEditor(**options)

    @server
    def accept_blobs(data: AcceptBlobs) -> None:
        """Take a picture or a layer from the browser, if it is not too large."""
        if len(data.files[0][1]) > MOST_BYTES:
            raise gr.Error(f"A picture has more than {MOST_BYTES // 10**6} MB: scale it down.")
        while len(editor.blob_storage) >= MOST_HELD:
            editor.blob_storage.pop(next(iter(editor.blob_storage)))
        gr.ImageEditor.accept_blobs(editor, data)

    def preprocess(payload: EditorData | None) -> Painted | None:
        """What was sent, not decoded."""
        if payload is None or payload.id is None:
            return None
        held = editor.blob_storage.pop(payload.id, None)
        if held is None:
            return None
        layers = [bytes(layer) for layer in held.layers if layer]
        return Painted(None if held.background is None else bytes(held.background), layers)

    editor.accept_blobs = accept_blobs
    editor.preprocess = preprocess
    return editor
