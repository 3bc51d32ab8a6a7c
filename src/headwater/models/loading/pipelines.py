"""Pipelines as people hold them, and what is loaded into them: adapters, learned tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from headwater.errors import ModelError, first_line
from headwater.models.loading.adapters import add_adapters, weigh
from headwater.models.loading.folders import (
    Read,
    network_folder,
    pipeline_of_folder,
    pipeline_of_network,
)
from headwater.models.loading.hub import from_hub, on_this_machine, pipeline_folder
from headwater.models.loading.outlines import outline_of_file, shape_of
from headwater.models.loading.single_files import pipeline_of_file
from headwater.models.loading.tokens import add_tokens
from headwater.models.loading.weights import NETWORK_ALONE, Unreadable, load_whole

# What diffusers and transformers raise on folders that they cannot read.
_UNREADABLE = (
    OSError, ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError,
    NotImplementedError, OverflowError, SafetensorError,
)  # fmt: skip

_MEND = "give a folder saved with `save_pretrained`, a safetensors file, a hub name, or `scenes`"
_LORA_MEND = "give a folder or a safetensors file written by `save_lora_weights`"

_TOKEN_MEND = "give a safetensors file of textual inversion"


def load_pipeline(model: str | Path, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """A diffusers pipeline and what belongs to it. No code that lies there is run.

    Args:
        model: a local folder or safetensors file, a hub name, or "scenes", the bundled model.
        dtype: of weights, as they are read: nothing stands in memory in another.
        options: as `loading.options.normal` gives them.

    Raises:
        ModelError: there is no such model, or it or what is added cannot be read.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ModelError(
            f"a {type(model).__name__} is no name of a model: give a folder or a hub name, or "
            "Denoiser(pipe) for a pipeline in memory"
        )
    with model_errors(f"the model {str(model)!r}", _MEND):
        read = partial(load_whole, torch_dtype=dtype)
        pipe = _opened(
            str(model), options.get("base"), read, partial(pipeline_of_file, dtype=dtype)
        )
    add_to(pipe, options)
    return pipe


def outline(model: str | Path, options: Mapping[str, Any]) -> Any:
    """The same pipeline in a moment: of the model's own numbers none is read, on the meta device.

    Raises:
        ModelError: as `load_pipeline`, of what does not need the numbers.
    """
    with model_errors(f"the model {str(model)!r}", _MEND):
        pipe = _opened(str(model), options.get("base"), shape_of, outline_of_file)
    add_to(pipe, options)
    return pipe


def add_to(pipe: Any, options: Mapping[str, Any]) -> None:
    """Load adapters and tokens into a pipeline.

    Raises:
        ModelError: some cannot be read, or do not fit.
    """
    loras = options.get("lora", ())
    for number, source in enumerate(loras):
        with model_errors(f"--lora {source!r}", _LORA_MEND):
            add_adapters(pipe, source, from_hub(source, "*.safetensors", "*.json"), number)
    if loras:
        weigh(pipe, options.get("lora_scale") or [1.0] * len(loras))
    for source in options.get("token", ()):
        with model_errors(f"--token {source!r}", _TOKEN_MEND):
            name, _, file = source.rpartition("=")
            add_tokens(pipe, from_hub(file, "*.safetensors"), name)


def _opened(model: str, base: str | None, read: Read, of_file: Callable[..., Any]) -> Any:
    model = on_this_machine(model)
    path = Path(model)
    if path.is_file():
        return of_file(path, base)
    folder = pipeline_folder(model)
    alone = network_folder(folder)
    if alone is None:
        if base is not None:
            raise Unreadable("it is a whole pipeline: leave --base out")
        return pipeline_of_folder(folder, read)
    if base is None:
        raise Unreadable(NETWORK_ALONE)
    return pipeline_of_network(alone, pipeline_folder(base), read)


@contextmanager
def model_errors(what: str, mend: str) -> Iterator[None]:
    """Say in one line that `what` cannot be loaded, whatever a library has raised.

    Raises:
        ModelError: with the reason of an `Unreadable`, or with `mend` and what a library says.
    """
    try:
        yield
    except Unreadable as reason:
        raise ModelError(f"cannot load {what}: {reason}") from reason.__cause__
    except _UNREADABLE as error:
        raise ModelError(f"cannot load {what}: {mend} ({first_line(error)})") from error
