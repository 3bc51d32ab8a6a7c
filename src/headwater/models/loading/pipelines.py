"""Pipelines from disk or a hub: a folder, and the LoRA adapters beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from headwater.errors import ModelError, first_line
from headwater.models.loading.adapters import add_adapters
from headwater.models.loading.weights import (
    Unreadable,
    load_whole,
    require_no_code,
    require_no_pointers,
)
from headwater.runtime.console import obey_bar_setting

BUNDLED_MODEL = Path(__file__).parents[2] / "scenes" / "model"

# What diffusers and transformers raise on folders that they cannot read.
_UNREADABLE = (
    OSError, ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError,
    NotImplementedError, OverflowError, SafetensorError,
)  # fmt: skip

_MEND = "give a folder saved with `save_pretrained`, a hub name, or `scenes`"
_LORA_MEND = "give a folder or a safetensors file written by `save_lora_weights`"

# Never needed to attribute, and large.
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def place(source: str | Path) -> str:
    """Where a later process finds it: a path from the root, a hub name, or "scenes"."""
    path = Path(source)
    known = str(source) == "scenes" or not path.exists()
    return str(source) if known else str(path.resolve())


def load_pipeline(model: str | Path, lora: str | Path | None = None) -> Any:
    """A diffusers pipeline, with its adapters if any are given. No code that lies there is run.

    Args:
        model: a local folder, a hub name, or "scenes", the bundled model.
        lora: a folder or a file that `save_lora_weights` or PEFT wrote, or a hub name.

    Raises:
        ModelError: there is no such model, or it cannot be read.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ModelError(
            f"a {type(model).__name__} is no name of a model: give a folder or a hub name, or "
            "Denoiser(pipe) for a pipeline in memory"
        )
    with model_errors(f"the model {str(model)!r}", _MEND):
        pipe = _loaded(_folder(str(model)))
    if lora is not None:
        with model_errors(f"--lora {str(lora)!r}", _LORA_MEND):
            add_adapters(pipe, place(lora), from_hub(str(lora), "*.safetensors", "*.json"))
    return pipe


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


def _loaded(folder: Path) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    obey_bar_setting()
    index = _index(folder)
    require_no_code(folder, index)
    # What it was saved without, diffusers asks for again (T5 of Stable Diffusion 3).
    absent = [name for name, kind in index.items() if kind == [None, None]]
    given: dict[str, Any] = dict.fromkeys([*absent, *(n for n in _LEFT_OUT if n in index)])
    if "safety_checker" in given:
        given["requires_safety_checker"] = False
    for name, kind in index.items():
        if _is_network(kind) and name not in given:
            given[name] = load_whole(getattr(import_module(kind[0]), kind[1]), folder / name)
        elif isinstance(kind, list) and kind[0] and name not in given:
            require_no_pointers(folder / name)
    return DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **given)


def _index(folder: Path) -> dict[str, Any]:
    file = folder / "model_index.json"
    if not file.is_file():
        raise Unreadable("it has no model_index.json: give a folder saved with `save_pretrained`")
    require_no_pointers(file)
    index = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(index, dict):
        raise Unreadable("its model_index.json is no JSON object")
    return index


def _is_network(kind: Any) -> bool:
    """Whether a part of a model_index.json has weights that a library of ours loads."""
    from torch import nn

    if not isinstance(kind, list) or kind[0] not in ("diffusers", "transformers"):
        return False
    found = getattr(import_module(kind[0]), str(kind[1]), None)
    return isinstance(found, type) and issubclass(found, nn.Module)


# --- where it is ----------------------------------------------------------------------------------


def _folder(model: str) -> Path:
    """The folder of a pipeline, on this machine by then."""
    if model == "scenes":
        return BUNDLED_MODEL
    path = Path(model)
    if path.is_dir():
        return path
    if path.is_file():
        raise Unreadable(
            "it is a single file: make a folder of it by `StableDiffusionPipeline."
            "from_single_file(file).save_pretrained(folder)` of diffusers"
        )
    return _downloaded(model)


def _downloaded(model: str) -> Path:
    """The folder of a hub's pipeline in the cache, without what is not needed."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    with hub_errors(model):
        index = Path(hf_hub_download(model, "model_index.json"))
        require_no_code(index.parent, _index(index.parent))
        folder = Path(DiffusionPipeline.download(model, use_safetensors=True))
        if _holds_weights(folder):
            return folder
        return Path(DiffusionPipeline.download(model, use_safetensors=True, variant="fp16"))


def _holds_weights(folder: Path) -> bool:
    return any(folder.glob("*/*.safetensors"))


def from_hub(source: str, *patterns: str) -> Path:
    """The file or folder of this name, or the files of a hub's repository in a folder.

    Args:
        patterns: of names of files that are fetched.

    Raises:
        FileNotFoundError, Unreadable: there is neither; see `hub_errors`.
    """
    from huggingface_hub import snapshot_download

    path = Path(source)
    if path.exists():
        return path
    with hub_errors(source):
        return Path(snapshot_download(source, allow_patterns=list(patterns)))


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Say of what is on no disk why it is not on a hub either.

    Raises:
        FileNotFoundError: it is no name that a hub could have.
        Unreadable: there is no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import constants, errors

    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError("there is no such file or folder")
    try:
        yield
    except errors.GatedRepoError as error:
        raise Unreadable(
            f"the hub gives it to those who accepted its terms: do so at huggingface.co/{name}, "
            "then log in (`hf auth login`)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise Unreadable(
            "there is no such folder here and no such repository on the hub (for a private one "
            "log in: `hf auth login`)"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        offline = constants.HF_HUB_OFFLINE
        raise Unreadable(
            "there is no such folder here, it is not in the hub's cache, and "
            + (
                "HF_HUB_OFFLINE keeps us from asking the hub: unset it, or give a folder"
                if offline
                else "the hub cannot be reached: check the network, or give a folder"
            )
        ) from error
    except errors.EntryNotFoundError as error:
        raise Unreadable(
            "its repository has no model_index.json, so it is no pipeline of diffusers"
        ) from error
