"""`headwater why`: from a model, its images, and a picture or a prompt, to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.options import (
    GUIDANCE,
    Base,
    Buckets,
    CaptionColumn,
    ClipSkip,
    Device,
    DistilledGuidance,
    Dtype,
    Guidance,
    ImageColumn,
    Json,
    Limit,
    Lora,
    LoraScale,
    Options,
    Out,
    Parameters,
    Resize,
    Resolution,
    Seed,
    Split,
    Token,
    Top,
    Trigger,
    dtype_named,
    images_of,
    model_options,
    with_options,
)
from headwater.cli.output import Output, default_folder, show
from headwater.runtime.console import say


@with_options
def why(
    given: Options,
    asked: Annotated[
        str, typer.Argument(help="A picture file, or a prompt.", metavar="PHOTO_OR_PROMPT")
    ],
    model: Annotated[
        str, typer.Option(help="A folder, a safetensors file, a hub name, or `scenes`.")
    ],
    data: Annotated[str, typer.Option(help="The images that it, or its adapters, learned from.")],
    lora: Lora = None,
    lora_scale: LoraScale = None,
    base: Base = None,
    token: Token = None,
    resolution: Resolution = None,
    buckets: Buckets = None,
    resize: Resize = None,
    clip_skip: ClipSkip = None,
    distilled_guidance: DistilledGuidance = None,
    prompt: Annotated[str, typer.Option(help="Of a picture file: what it is of.")] = "",
    concept: Annotated[
        list[str] | None,
        typer.Option(help="Words of the prompt, instead of all it names; may be repeated."),
    ] = None,
    parameters: Parameters = None,
    index: Annotated[
        Path | None, typer.Option(help="Folder of the index; default one beside the images.")
    ] = None,
    split: Split = "train",
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    trigger: Trigger = None,
    limit: Limit = None,
    seed: Seed = 0,
    guidance: Guidance = GUIDANCE,
    top: Top = 5,
    dtype: Dtype = "float32",
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which images taught the model this picture, and what it shows?

    Or its adapters. The index is built once, beside the images; a later question finds it there.
    """
    precision = dtype_named(dtype)
    from headwater.quick.questions import answers_of, questions
    from headwater.quick.sessions import session_of

    queries = questions(asked, prompt, concept, seed, guidance)
    output = Output(out or default_folder(queries, given), top, as_json)
    images = images_of(data, split, image_column, caption_column, limit, trigger)
    recipe = {} if parameters is None else {"parameters": parameters}
    loaded = dict(device=device, dtype=precision, **model_options(given))
    session = session_of(model, images, index, recipe, say, **loaded)
    show(session, answers_of(session, queries, say), output, guidance)
