"""LoRA adapters beside a model: found, loaded, and compared with what their file holds.

Libraries drop tensors that fit no layer, and say so where nobody looks; what was loaded is compared
with the file by content, since each format has names of its own.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from headwater.errors import HeadwaterWarning
from headwater.models.loading.weights import Unreadable, require_no_pointers

NAME = "lora"  # of the adapter, in the network's names

# What some trainers write that is no LoRA -> what it is.
_OTHERS = {".lokr_": "LoKr", ".hada_": "LoHa", ".oft_": "OFT", ".boft_": "BOFT", ".diff": "full"}
_PEFT_CONFIG, _PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_adapters(pipe: Any, source: str, files: Path) -> None:
    """Load the LoRA of a file, or of a folder that holds one, into the pipeline.

    Args:
        source: its name, for what is said.
        files: where it lies on this machine.

    Raises:
        Unreadable: the pipeline takes none, there is not one, or some of it fits no layer.
    """
    of_peft = _of_peft(files)
    if not hasattr(pipe, "load_lora_weights") and not of_peft:
        raise Unreadable(f"{type(pipe).__name__} takes no LoRA adapters: leave --lora out")
    if find_spec("peft") is None:
        raise Unreadable("--lora needs the extra: pip install 'headwater[lora]'")
    file = _one_file(files)
    require_no_pointers(file)
    tensors = load_file(file)
    _require_lora(tensors)
    parts = _parts(pipe)
    if of_peft:
        _load_peft(next(iter(parts.values())), file.parent, tensors)
    elif all(name.split(".")[0] in dict(parts["network"].named_children()) for name in tensors):
        network: Any = parts["network"]  # `save_lora_adapter` of the network alone wrote it
        network.load_lora_adapter(str(file), prefix=None, adapter_name=NAME, use_safetensors=True)
    else:
        pipe.load_lora_weights(str(file), use_safetensors=True, adapter_name=NAME)
    _require_all(tensors, parts, source)
    _warn_of_unattributed(parts, source)


def _parts(pipe: Any) -> dict[str, nn.Module]:
    from headwater.models.families import family_of

    family = family_of(pipe)
    return {"network": family.network, **family.encoders}


def _of_peft(place: Path) -> bool:
    """Whether it is, or is in, a folder that `PeftModel.save_pretrained` wrote."""
    folder = place if place.is_dir() else place.parent
    if place.is_file() and place.name != _PEFT_WEIGHTS:
        return False
    return all((folder / name).is_file() for name in (_PEFT_CONFIG, _PEFT_WEIGHTS))


def _one_file(place: Path) -> Path:
    if place.is_file():
        if place.suffix != ".safetensors":
            raise Unreadable("it is no safetensors file, and other formats can run code")
        return place
    files = sorted(place.glob("*.safetensors"))
    if not files:
        raise Unreadable(
            "it holds no safetensors file: give a folder or a safetensors file written by "
            "`save_lora_weights`"
        )
    if len(files) > 1:
        few = ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
        raise Unreadable(f"it holds {len(files)} safetensors files ({few}): give one of them")
    return files[0]


def _require_lora(tensors: Mapping[str, Tensor]) -> None:
    for mark, kind in _OTHERS.items():
        names = [name for name in tensors if mark in name]
        if names:
            raise Unreadable(
                f"it holds {kind} tensors ({_few(names)}), and headwater takes LoRA: merge them "
                "into a copy of the model and give that"
            )
    if not any("lora" in name for name in tensors):
        raise Unreadable(
            f"no tensor in it ({_few(list(tensors))}) is of a LoRA: give a folder or a safetensors "
            "file written by `save_lora_weights`"
        )


def _load_peft(network: Any, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """What `PeftModel.save_pretrained` wrote of the network."""
    import peft

    kind = json.loads((folder / _PEFT_CONFIG).read_text(encoding="utf-8")).get("peft_type")
    if kind != "LORA":
        raise Unreadable(f"it is an adapter of PEFT's type {kind}, and headwater takes LORA")
    config = peft.PeftConfig.from_pretrained(str(folder))
    own = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    try:
        peft.inject_adapter_in_model(config, network, adapter_name=NAME)
    except ValueError as error:
        raise Unreadable(
            f"PEFT's adapter for the layers {config.target_modules} is of another network than "  # pyright: ignore[reportAttributeAccessIssue]
            f"{type(network).__name__}"
        ) from error
    result = peft.set_peft_model_state_dict(network, own, adapter_name=NAME)
    missing = [name for name in result.missing_keys if f".{NAME}." in name and "lora_" in name]
    if missing:
        raise Unreadable(
            f"its configuration names layers that it has no tensors of: {_few(missing)}"
        )
    network._hf_peft_config_loaded = True  # as diffusers' own loader leaves it


# --- what became of it ----------------------------------------------------------------------------


def _require_all(tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module], source: str):
    """Refuse, or of text encoders warn of, tensors that no part of the pipeline has now."""
    loaded = {_key(tensor) for _, tensor in _adapter_tensors(parts.values())}
    if not loaded:
        raise Unreadable(
            f"none of its tensors ({_few(list(tensors))}) are of this pipeline's layers"
        )
    dropped = [
        name
        for name, tensor in tensors.items()
        if not name.endswith(".alpha") and _key(tensor) not in loaded
    ]
    of_words = [name for name in dropped if _of_text_encoder(name)]
    if len(of_words) < len(dropped):
        others = [name for name in dropped if not _of_text_encoder(name)]
        raise Unreadable(
            f"{len(others)} of its {len(tensors)} tensors fit no layer of this model "
            f"({_few(others)}): it is of another model, or of a kind that diffusers does not load"
        )
    if of_words:
        warnings.warn(
            f"--lora {source!r}: {len(of_words)} of its {len(tensors)} tensors fit no layer of "
            f"the text encoder and are left out ({_few(of_words)})",
            HeadwaterWarning,
            stacklevel=2,
        )


def _warn_of_unattributed(parts: Mapping[str, nn.Module], source: str) -> None:
    encoders = [part for name, part in parts.items() if name != "network"]
    names = [name for name, _ in _adapter_tensors(encoders)]
    layers = {name.partition(".lora_")[0] for name in names}
    magnitudes = [
        name for name, _ in _adapter_tensors([parts["network"]]) if ".lora_magnitude_vector" in name
    ]
    for count, what in (
        (len(layers), "layers of the text encoder"),
        (len(magnitudes), "magnitudes (DoRA)"),
    ):
        if count:
            warnings.warn(
                f"--lora {source!r}: {count} {what} in it are used, and never attributed",
                HeadwaterWarning,
                stacklevel=2,
            )


def _adapter_tensors(modules) -> Iterator[tuple[str, Tensor]]:
    for module in modules:
        for name, tensor in module.state_dict().items():
            if ".lora_" in name:
                yield name, tensor


def _of_text_encoder(name: str) -> bool:
    return name.startswith(("text_encoder", "lora_te"))


def _key(tensor: Tensor) -> str:
    """By content: loading changes names, shapes of convolutions, and the type."""
    flat = tensor.detach().cpu().float().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
