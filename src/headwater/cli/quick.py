"""`headwater why` and `audit`: from a model and its images to answers, in one command."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

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
    Run,
    Seed,
    Split,
    Token,
    Top,
    Trigger,
    dtype_named,
    images_of,
    model_options,
    open_session,
    with_options,
)
from headwater.cli.output import Output, default_folder, show
from headwater.cli.tables import audit_table
from headwater.errors import ParameterError
from headwater.runtime.console import json_line, printable, say

# Of an audit, what a command line says of how it is shown.
_ASIDE = ("out", "top", "as_json", "device")


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
    run: Run = None,
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


@with_options
def audit(
    given: Options,
    place: Annotated[
        str, typer.Argument(help="Folder of an index, or images and --model.", metavar="INDEX|DATA")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Of DATA: a folder, a file, a hub name, or `scenes`."),
    ] = None,
    lora: Lora = None,
    lora_scale: LoraScale = None,
    base: Base = None,
    token: Token = None,
    resolution: Resolution = None,
    buckets: Buckets = None,
    resize: Resize = None,
    clip_skip: ClipSkip = None,
    distilled_guidance: DistilledGuidance = None,
    run: Run = None,
    alternatives: Annotated[
        list[str] | None,
        typer.Option(
            help="Words of which an image shows one at most (red,blue,green), instead of those "
            "that captions set in the same place; may be repeated."
        ),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Of DATA: folder of the index; default beside the images.")
    ] = None,
    split: Split = "train",
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    trigger: Trigger = None,
    limit: Limit = None,
    seed: Seed = 0,
    top: Top = 20,
    dtype: Dtype = "float32",
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which captions do not say what the model sees?

    The model looks at each image under its caption with one word exchanged. Forward passes only.
    """
    kinds = [[value.strip() for value in kind.split(",")] for kind in alternatives or ()]
    _require_place(given)
    session = _session(given)
    from headwater.quick.audit import audit as audit_captions
    from headwater.report.audit import write_audit

    if top < 1:
        raise ParameterError(f"--top {top} must be at least 1")
    found = audit_captions(session, kinds or None, seed, say)
    written = write_audit(session.index, found, out or _audit_folder(given), top)
    if as_json:
        print(json_line(written))
    else:
        print(audit_table(written), f"\nReport: {printable(written['out'])}/report.html", sep="\n")


def _require_place(given: Options) -> None:
    """Refuse DATA without a model, and what is of DATA beside an index.

    Raises:
        ParameterError: names the option.
    """
    of_data = {"model": given["model"], "index": given["index"], **model_options(given)}
    named = [name for name, value in of_data.items() if value not in (None, ())]
    is_index = (Path(given["place"]) / "index.json").is_file()
    if is_index and named:
        option = named[0].replace("_", "-")
        raise ParameterError(
            f"--{option} goes with images, and {given['place']} is an index, which knows its "
            "model: leave it out"
        )
    if not is_index and given["model"] is None:
        raise ParameterError(
            f"{given['place']} is no index: give the model that learned from these images as "
            "--model"
        )


def _session(given: Options) -> Any:
    """On the index, or on one of the images that is built beside them: latents alone."""
    if given["model"] is None:
        return open_session(Path(given["place"]), given["device"])
    from headwater.quick.sessions import session_of

    named = ("split", "image_column", "caption_column", "limit", "trigger")
    images = images_of(given["place"], *(given[name] for name in named))
    loaded = {"device": given["device"], "dtype": dtype_named(given["dtype"])}
    recipe = {"method": "pixel-dot"}
    loaded |= model_options(given)
    return session_of(given["model"], images, given["index"], recipe, say, **loaded)


def _audit_folder(given: Options) -> Path:
    from headwater.storage.files import slug

    asked = sorted((name, str(value)) for name, value in given.items() if name not in _ASIDE)
    digest = hashlib.sha256(str(asked).encode()).hexdigest()[:6]
    return Path("headwater-answers") / f"audit-{slug(Path(given['place']).name)}-{digest}"
