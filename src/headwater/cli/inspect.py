"""`headwater inspect`: what a model and images are, before anything is computed."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli.options import (
    Base,
    Buckets,
    CaptionColumn,
    ClipSkip,
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
    images_of,
    model_options,
    with_options,
)
from headwater.cli.tables import listed, print_facts
from headwater.runtime.console import json_line


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
