"""What may be said of a model beside its name: the files it is made up of, and how it is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from headwater.errors import ParameterError
from headwater.models.fitting import RESIZE, RESIZES
from headwater.models.loading.hub import place

Places = str | Path | Sequence[str | Path]


class ModelOptions(TypedDict, total=False):
    """Options of `Denoiser.load`. What is left out, or None, is the model's own.

    Attributes:
        base: the pipeline that a file or folder of a network alone belongs to, or the folder of
            configurations and tokenizers that a single file is read by; a folder or a hub name.
        lora: LoRA adapters, of one training or of several: files, folders or hub names.
        lora_scale: a factor for each of them.
        token: textual-inversion files, whose tokens prompts may hold then; as NAME=FILE under
            another name.
        resolution: height and width of pictures in pixels, one number or both.
        buckets: the sizes that pictures were trained at, see `fitting.buckets_named`.
        resize: how pictures are made larger or smaller, a name of `fitting.RESIZES`.
        clip_skip: the layer of the text encoder that is read, as trainers count: 1 is the last.
            Stable Diffusion XL reads the second last anyway.
        distilled_guidance: the guidance that a network distilled from a guided one is told of.
        run: folder of the training that made the model, or its adapters, recorded by a `Recorder`.
    """

    base: str | Path | None
    lora: Places | None
    lora_scale: float | Sequence[float] | None
    token: Places | None
    resolution: int | str | Sequence[int] | None
    buckets: int | str | None
    resize: str | None
    clip_skip: int | None
    distilled_guidance: float | None
    run: str | Path | None


# Those that a family reads (`families.family.Reading`); adapters and tokens are in the pipeline.
READINGS = ("resolution", "clip_skip", "distilled_guidance")


def normal(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON takes them, with places that a later process finds; without what is None.

    Raises:
        ParameterError: `lora_scale` is of no `lora`, or not one for each; `resize` or `resolution`
            is none.
        TypeError: there is no such option.

    >>> normal({"lora": "someone/theirs", "lora_scale": 0.5, "base": None})
    {'lora': ['someone/theirs'], 'lora_scale': [0.5]}
    """
    unknown = [name for name in options if name not in ModelOptions.__annotations__]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no option of a model: {', '.join(_known())} are")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("base", "run"):
        if name in given:
            given[name] = place(given[name])
    for name in ("lora", "token"):
        if name in given:
            given[name] = [_placed(str(source)) for source in several(given[name])]
    if "lora_scale" in given:
        given["lora_scale"] = [float(scale) for scale in several(given["lora_scale"])]
    if "resolution" in given:
        given["resolution"] = _sides(given["resolution"])
    if "buckets" in given:
        given["buckets"] = str(given["buckets"])
    if "distilled_guidance" in given:
        given["distilled_guidance"] = float(given["distilled_guidance"])
    if given.get("resize", RESIZE) not in RESIZES:
        raise ParameterError(f"--resize {given['resize']!r} is not one of {', '.join(RESIZES)}")
    counts = len(given.get("lora_scale", ())), len(given.get("lora", ()))
    if counts[0] not in (0, counts[1]):
        raise ParameterError(
            f"--lora-scale is given {counts[0]} time(s) and --lora {counts[1]}: give a scale for "
            "each, in the same order, or none"
        )
    return {name: value for name, value in given.items() if value != []}


def _placed(source: str) -> str:
    """Of FILE or NAME=FILE."""
    name, equals, file = source.rpartition("=")
    return name + equals + place(file)


def _sides(resolution: int | str | Sequence[int]) -> int | list[int]:
    """Of 512, "512", "512x768" or (512, 768): height and width; one number where both are that."""
    try:
        sides = resolution.split("x") if isinstance(resolution, str) else several(resolution)
        height, *rest = map(int, sides)
        (width,) = rest or [height]
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise ParameterError(
            f"--resolution {resolution!r} must be a number of pixels, or HEIGHTxWIDTH"
        )
    return height if height == width else [height, width]


def several(value: Any) -> list[Any]:
    """One, or several, as a list."""
    return [value] if isinstance(value, (str, os.PathLike, int, float)) else list(value)


def _known() -> list[str]:
    return sorted(ModelOptions.__annotations__)
