"""Commands for people who look: `headwater inspect`, `view` and `gallery`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.options import (
    Base,
    Buckets,
    CaptionColumn,
    ClipSkip,
    Device,
    DistilledGuidance,
    Dtype,
    ImageColumn,
    Json,
    Limit,
    Lora,
    LoraScale,
    ModelName,
    Options,
    Resize,
    Resolution,
    Run,
    Split,
    Token,
    Trigger,
    dtype_named,
    fetched,
    images_of,
    model_options,
    open_session,
    with_options,
)
from headwater.cli.tables import listed, print_facts
from headwater.errors import ParameterError
from headwater.runtime.console import json_line, say

HOST, PORT = "127.0.0.1", 7860


@with_options
def inspect(
    given: Options,
    model: ModelName,
    data: Annotated[
        str | None, typer.Argument(help="Its training images, as `index` takes them.")
    ] = None,
    base: Base = None,
    lora: Lora = None,
    lora_scale: LoraScale = None,
    token: Token = None,
    resolution: Resolution = None,
    buckets: Buckets = None,
    resize: Resize = None,
    clip_skip: ClipSkip = None,
    distilled_guidance: DistilledGuidance = None,
    run: Run = None,
    dtype: Dtype = "float32",
    split: Split = "train",
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    trigger: Trigger = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """What a model is, and what its training images are.

    And what of it would be attributed, and what never is. No weights are read: it takes a moment.
    """
    precision = dtype_named(dtype)
    from headwater.quick.inspection import inspect_images, inspect_model

    facts, denoiser = inspect_model(model, precision, **model_options(given))
    if data is not None:
        images = images_of(data, split, image_column, caption_column, limit, trigger)
        facts |= inspect_images(images, denoiser)
    if as_json:
        print(json_line(facts))
    else:
        print_facts({name: listed(value) for name, value in facts.items()})


def view(
    indexes: Annotated[
        list[Path], typer.Argument(help="Folders of indexes, or URLs.", parser=fetched)
    ],
    host: Annotated[
        str, typer.Option(help="Where the page is reached; another than this machine needs --auth.")
    ] = HOST,
    port: Annotated[int, typer.Option(help="Of the page.")] = PORT,
    auth: Annotated[
        str | None, typer.Option(help="USER:PASSWORD that the page asks for.", metavar="PAIR")
    ] = None,
    device: Device = None,
) -> None:
    """Ask by clicking and look at answers, in a browser.

    Several indexes (of a model before and after, of all images and without some) are asked the
    same and stand side by side.
    """
    show_page(indexes, host, port, auth, device)


def gallery(
    out: Annotated[Path, typer.Argument(help="Folder of the gallery, which is made.")],
    answers: Annotated[list[Path], typer.Argument(help="Folders of answers.")],
    title: Annotated[str, typer.Option(help="Of the gallery.")] = "What taught the model this?",
) -> None:
    """Answers as plain pages that need no server."""
    from headwater.viewer.gallery import write_gallery

    print(write_gallery(out, answers, title))


def show_page(
    indexes: Iterable[Path],
    host: str = HOST,
    port: int = PORT,
    auth: str | None = None,
    device: str | None = None,
) -> None:
    """The page on some indexes, until Ctrl-C."""
    from headwater.viewer.serve import require_page, serve

    require_page(host, port, auth)  # before a model is loaded
    folders = list(indexes)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise ParameterError("an index is named twice: name each once")
    sessions = {n: open_session(f, device) for n, f in zip(names, folders, strict=True)}
    serve(sessions, host, port, auth, say)
