"""Options that several commands share, and what they hold in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from headwater.errors import ParameterError, QueryError
from headwater.models.families.sets import NAMES

if TYPE_CHECKING:
    import torch

    from headwater.attribution.session import Session
    from headwater.data.training_set import TrainingSet


def fetched(place: str) -> Path:
    """A folder of this machine: itself, or a copy of what a URL names."""
    from headwater.storage.remote import here

    return Path(here(place))


def on_a_disk(place: str) -> Path:
    """A folder that is written to, which no URL is."""
    from headwater.storage.remote import is_remote

    if is_remote(place):
        raise ParameterError(
            f"{place} is on no disk of this machine: name a folder; `headwater push` copies it "
            "there"
        )
    return Path(place)


IndexFolder = Annotated[Path, typer.Argument(help="Folder of an index, or a URL.", parser=fetched)]
# Of an index that is written to.
OwnFolder = Annotated[Path, typer.Argument(help="Folder of an index.", parser=on_a_disk)]
Method = Annotated[
    str | None, typer.Option(help="One that the index serves (headwater info); see methods.")
]
Damping = Annotated[
    str | None,
    typer.Option(
        help="Of the kernel or the curvature, in mean eigenvalues; several with commas. By default "
        "the method's own: 0.1, and 0.01 of a curvature."
    ),
]
Candidates = Annotated[
    str | None,
    typer.Option(
        help="clip:COUNT or pixel:COUNT: only the most similar compete; or presence:COUNT, those "
        "in which the model sees the concept."
    ),
]
CONDITION = (
    "'FIELD [not] contains|is|matches VALUE', of id, caption, uri, folder, or a column of the data"
)
Where = Annotated[
    list[str] | None,
    typer.Option(help=f"Only images that fulfil it compete: {CONDITION}; may be repeated."),
]
Among = Annotated[
    Path | None, typer.Option(help="File of ids, one on each line: only these images compete.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="Also what groups of images score: folder, another field or column, or a csv file of "
        "id,group."
    ),
]
ClipFolder = Annotated[Path | None, typer.Option("--clip", help="Folder of a CLIP model.")]
ModelName = Annotated[
    str, typer.Argument(help="A folder, a safetensors file, a hub name, or `scenes`.")
]
Base = Annotated[
    str | None, typer.Option(help="Pipeline that a network alone, or a single file, is part of.")
]
Lora = Annotated[
    list[str] | None, typer.Option(help="Folder or file of LoRA adapters; may be repeated.")
]
LoraScale = Annotated[
    list[float] | None, typer.Option(help="Factor of each --lora, in the same order.")
]
Token = Annotated[
    list[str] | None,
    typer.Option(help="File of textual inversion, or NAME=FILE; may be repeated."),
]
Parameters = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(NAMES)}, lora, all, or a regex over layer names; which of them there "
        "are, and the default, is by what the model has."
    ),
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Resolution = Annotated[
    str | None,
    typer.Option(help="Of pictures: SIDE or HEIGHTxWIDTH; default the model's own."),
]
Buckets = Annotated[
    str | None,
    typer.Option(help="Aspect buckets of training: STEP (64 is kohya's), STEP:LEAST:MOST, sizes."),
]
Resize = Annotated[
    str | None,
    typer.Option(help="How pictures are resized: bicubic (default), lanczos, bilinear or area."),
]
ClipSkip = Annotated[
    int | None,
    typer.Option(help="Layer of CLIP that is read, as trainers count: 1 is the last."),
]
DistilledGuidance = Annotated[
    float | None, typer.Option(help="Told to a network that wants it (Flux.1-dev), as in training.")
]
Run = Annotated[
    Path | None,
    typer.Option(help="Folder of the training, as headwater.Recorder recorded it."),
]
GUIDANCE = 5.0
Guidance = Annotated[float, typer.Option(help="Guidance scale of the query's picture.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default cuda, if there.")]
EngineName = Annotated[str, typer.Option("--engine", help="local, or ray for a Ray cluster.")]
Jobs = Annotated[int, typer.Option(help="Worker processes, side by side.")]
Split = Annotated[
    str, typer.Option(help="Of a data set that has several; all takes every one of a folder.")
]
ImageColumn = Annotated[
    str | None,
    typer.Option(help="Of tables; default image, img, png or jpg. Of archives a suffix."),
]
CaptionColumn = Annotated[
    str | None,
    typer.Option(
        help="Of the same, or a key of metadata files; default caption, text, prompt or "
        "description."
    ),
]
Trigger = Annotated[
    str | None, typer.Option(help="Word that the trainer put before each caption, or words.")
]
Limit = Annotated[int | None, typer.Option(help="Only the first N images.")]
Seed = Annotated[int, typer.Option(help="Seed of the picture and of the draws.")]
Top = Annotated[int, typer.Option(help="How many proponents and opponents.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the answer.")]
Layout = Annotated[
    str,
    typer.Option(
        help="headwater, or concept-trak: files as the published code of that names them."
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Compute the query's gradient again.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


# All that a command line gives a command, by the names of its parameters.
Options: TypeAlias = Mapping[str, Any]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer whose first parameter is handed all others by name.

    Answers and results state what their command was given, and commands hand it on; typer sees the
    others.
    """
    signature = inspect.signature(command, eval_str=True)
    _, *parameters = signature.parameters.values()

    @wraps(command)
    def run(**given: Any) -> None:
        options = {parameter.name: given[parameter.name] for parameter in parameters}
        command(options, **options)

    run.__signature__ = signature.replace(parameters=parameters)
    return run


def asking(given: Options) -> dict[str, Any]:
    """What a command was told of how to answer, for `attribute`."""
    damping = given["damping"]
    try:
        ratios = [None] if damping is None else [float(each) for each in damping.split(",")]
    except ValueError:
        raise QueryError(
            f"--damping {damping!r} must be a number, or several with commas"
        ) from None
    one = ratios[0] if len(ratios) == 1 else ratios
    return {
        "method": given["method"],
        "damping": one,
        "candidates": given.get("candidates"),
        "where": given.get("where") or (),
        "among": given.get("among"),
        "group_by": given.get("group_by"),
        "fresh": given["fresh"],
    }


def number_or_auto(option: str, text: str) -> int | None:
    """A number, or None for `auto`."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ParameterError(f"{option} {text!r} must be a number, or `auto`") from None


def images_of(
    data: str,
    split: str,
    image_column: str | None,
    caption_column: str | None,
    limit: int | None,
    trigger: str | None = None,
) -> TrainingSet:
    """The images that a command names, by its options of these names."""
    from headwater.data.sources import load_dataset

    images = load_dataset(
        data,
        split=split,
        image_column=image_column,
        caption_column=caption_column,
        trigger=trigger,
    )
    return images if limit is None else images.first(limit)


def model_options(given: Options) -> dict[str, Any]:
    """What a command was told of its model beside its name, as `Denoiser.load` takes it."""
    from headwater.models.loading.options import ModelOptions

    return {name: given[name] for name in ModelOptions.__annotations__}


def dtype_named(text: str) -> torch.dtype:
    """What --dtype says."""
    if text not in ("float32", "bfloat16", "float16"):
        raise ParameterError(f"--dtype {text!r} is not one of float32, bfloat16, float16")
    import torch

    return getattr(torch, text)


def open_session(
    index: Path, device: str | None, clip: Path | None = None, engine: str = "local", jobs: int = 1
) -> Session:
    """A session on the index, with the CLIP model of --clip and the workers of --jobs."""
    from headwater.attribution.session import Session
    from headwater.models.clip import Clip
    from headwater.runtime.executor import Executor
    from headwater.runtime.memory import usable_device

    executor = Executor(engine, jobs)
    own = None if clip is None else Clip(clip, usable_device(device))
    return Session.open(index, executor, device=device, clip=own)
