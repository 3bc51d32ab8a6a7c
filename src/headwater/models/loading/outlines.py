"""Models in a moment: networks of their configurations, without numbers (on the meta device)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from headwater.models.loading.folders import pipeline_of_folder
from headwater.models.loading.hub import pipeline_folder
from headwater.models.loading.single_files import description_of, is_whole, require_model_file
from headwater.models.loading.weights import (
    NETWORK_ALONE,
    Unreadable,
    require_unquantised,
    variant_of,
)


def shape_of(kind: Any, folder: Path) -> nn.Module:
    """A network of diffusers or transformers, of whose weights it is only seen that they are there.

    Raises:
        Unreadable: there are none in safetensors.
    """
    of_transformers = kind.__module__.startswith("transformers.")
    require_unquantised(folder)
    variant_of(folder, "model" if of_transformers else "diffusion_pytorch_model")
    return _empty(kind, folder)


def outline_of_file(file: Path, base: str | None) -> Any:
    """The pipeline of a single file.

    Raises:
        Unreadable: it is no such file, or a network's without a `base`.
    """
    require_model_file(file)
    tensors = load_file(file)  # mapped, not read
    if not is_whole(tensors) and base is None:
        raise Unreadable(NETWORK_ALONE)
    folder = description_of(tensors, base) if is_whole(tensors) else pipeline_folder(str(base))
    return pipeline_of_folder(folder, _empty)


def _empty(kind: Any, folder: Path) -> nn.Module:
    with torch.device("meta"):
        if kind.__module__.startswith("transformers."):
            return kind(kind.config_class.from_pretrained(folder))
        return kind.from_config(kind.load_config(folder))
