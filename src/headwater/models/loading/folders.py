"""Folders that `save_pretrained` wrote: of a pipeline, or of its network alone."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from headwater.models.loading.weights import (
    Unreadable,
    load_whole,
    read_index,
    require_no_code,
    require_no_pointers,
)
from headwater.runtime.console import obey_bar_setting

# Never needed to attribute, and large.
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")

# What pipelines call the part that is attributed.
NETWORKS = ("unet", "transformer")


def pipeline_of_folder(folder: Path, dtype: torch.dtype, **given: Any) -> Any:
    """The pipeline of a folder, with its weights in this type, and these parts instead of its own.

    Raises:
        Unreadable: it is none, or some of it cannot be loaded.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    obey_bar_setting()
    index = read_index(folder)
    require_no_code(folder, index)
    parts = absent(index) | given
    for name, kind in index.items():
        if _is_network(kind) and name not in parts:
            parts[name] = load_whole(class_of(kind), folder / name, torch_dtype=dtype)
        elif isinstance(kind, list) and kind[0] and name not in parts:
            require_no_pointers(folder / name)
    return DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **parts)


def absent(index: dict[str, Any]) -> dict[str, Any]:
    """Parts that no pipeline of this model_index.json is to have, as None."""
    # What it was saved without, diffusers asks for again (T5 of Stable Diffusion 3).
    without = [name for name, kind in index.items() if kind == [None, None]]
    given: dict[str, Any] = dict.fromkeys([*without, *(n for n in LEFT_OUT if n in index)])
    if "safety_checker" in given:
        given["requires_safety_checker"] = False
    return given


def class_of(kind: list[str]) -> Any:
    """The class that a model_index.json names as [library, name]."""
    return getattr(import_module(kind[0]), kind[1])


def _is_network(kind: Any) -> bool:
    """Whether a part of a model_index.json has weights that a library of ours loads."""
    from torch import nn

    if not isinstance(kind, list) or kind[0] not in ("diffusers", "transformers"):
        return False
    found = getattr(import_module(kind[0]), str(kind[1]), None)
    return isinstance(found, type) and issubclass(found, nn.Module)


# --- a network alone ------------------------------------------------------------------------------


def network_folder(folder: Path) -> Path | None:
    """Where a folder holds a network alone: itself, or the `unet/` of a training's checkpoint."""
    if (folder / "model_index.json").exists():
        return None
    places = [folder, *(folder / name for name in NETWORKS)]
    return next((place for place in places if (place / "config.json").is_file()), None)


def pipeline_of_network(folder: Path, base: Path, dtype: torch.dtype) -> Any:
    """The pipeline `base` around the network of a folder.

    Raises:
        Unreadable: the network is of another kind than that of `base`.
    """
    import diffusers

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config.get("_class_name")
    kind = getattr(diffusers, str(name), None)
    if kind is None:
        raise Unreadable(f"its config.json is of a {name!r}, which is no network of diffusers")
    part = network_part(read_index(base), str(name))
    return pipeline_of_folder(base, dtype, **{part: load_whole(kind, folder, torch_dtype=dtype)})


def network_part(index: dict[str, Any], name: str) -> str:
    """What the pipeline of a model_index.json calls its network of this class.

    Raises:
        Unreadable: it has none.
    """
    own = {part: index[part] for part in NETWORKS if index.get(part)}
    for part, kind in own.items():
        if kind[1] == name:
            return part
    has = " and ".join(f"a {kind[1]}" for kind in own.values()) or "no network"
    raise Unreadable(f"it is a {name}, and --base has {has}: give the pipeline that it is part of")
