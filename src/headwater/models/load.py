"""Pipelines from disk or a hub: a folder, and the LoRA adapters beside it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from headwater.errors import ModelError, first_line
from headwater.runtime.console import obey_bar_setting

BUNDLED_MODEL = Path(__file__).parents[1] / "scenes" / "model"

# What diffusers and transformers raise on folders that they cannot read.
_UNREADABLE = (
    OSError, ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError,
    SafetensorError,
)  # fmt: skip

# Never needed to attribute, and large.
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")


def place(source: str | Path) -> str:
    """Where a later process finds it: a path from the root, a hub name, or "scenes"."""
    path = Path(source)
    known = str(source) == "scenes" or not path.exists()
    return str(source) if known else str(path.resolve())


def load_pipeline(model: str | Path, lora: str | Path | None = None) -> Any:
    """A diffusers pipeline, with its adapters if any are given.

    Args:
        model: a local folder, a hub name, or "scenes", the bundled model.
        lora: a folder or a file that `save_lora_weights` wrote, or a hub name.

    Raises:
        ModelError: there is no such model, or it cannot be read.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    obey_bar_setting()
    path = str(BUNDLED_MODEL if str(model) == "scenes" else model)
    try:
        config = DiffusionPipeline.load_config(path)
        left_out: dict[str, Any] = {name: None for name in _LEFT_OUT if name in config}
        if "safety_checker" in left_out:
            left_out["requires_safety_checker"] = False
        # Weights in any other format are pickles, which could run code.
        pipe = DiffusionPipeline.from_pretrained(path, use_safetensors=True, **left_out)
    except _UNREADABLE as error:
        raise ModelError(
            f"cannot load the model {str(model)!r}: give a folder saved with "
            f"`save_pretrained`, a hub name, or `scenes` ({first_line(error)})"
        ) from error
    if _holds_adapters(pipe):
        raise ModelError(
            f"cannot load the model {str(model)!r}: LoRA adapters were saved inside it; save them "
            "by `save_lora_weights`, give the model without them, and the adapters as --lora"
        )
    if lora is not None:
        _add_adapters(pipe, lora)
    return pipe


def _holds_adapters(pipe: Any) -> bool:
    """Whether the network was saved with PEFT layers in it, which no pipeline loads again.

    Left alone, the weights that PEFT gave other names would be random, or on no device.
    """
    folder = getattr(getattr(pipe, "unet", None), "config", {}).get("_name_or_path")
    return folder is not None and any(
        ".base_layer." in name
        for file in Path(folder).glob("*.safetensors")
        for name in safe_open(file, "pt").keys()
    )


def _add_adapters(pipe: Any, lora: str | Path) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise ModelError(f"{type(pipe).__name__} takes no LoRA adapters: leave --lora out")
    if find_spec("peft") is None:
        raise ModelError("--lora needs the extra: pip install 'headwater[lora]'")
    try:
        # Weights in any other format are pickles, which could run code.
        pipe.load_lora_weights(place(lora), use_safetensors=True, adapter_name="lora")
        if not pipe.get_list_adapters():
            raise ValueError("none in it are of this pipeline")
    except _UNREADABLE as error:
        raise ModelError(
            f"cannot load --lora {str(lora)!r}: give a folder or a safetensors file written by "
            f"`save_lora_weights` ({first_line(error)})"
        ) from error
