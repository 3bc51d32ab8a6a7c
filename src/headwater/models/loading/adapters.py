"""LoRA adapters beside a model: found, loaded, and compared with what their file holds.

Libraries drop tensors that fit no layer, and say so where nobody looks. Each trainer names and
shapes them in its own way: diffusers converts them all to one, and what it leaves out on the way is
found by sending marked tensors through; what was loaded is compared with the rest by content.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from headwater.errors import HeadwaterWarning
from headwater.gradients.layers import parameters_of
from headwater.gradients.parameters import adapters_of
from headwater.models.loading.lycoris import is_factor, is_lycoris, load_lycoris
from headwater.models.loading.weights import Unreadable, require_no_pointers, safetensors_in

# Of the first adapter in the network's names; of others with their number.
NAME = "lora"
# What diffusers' training scripts call their file, beside others of a checkpoint.
_USUAL_FILE = "pytorch_lora_weights.safetensors"

# How names of adapters' tensors say of which kind they are, and PEFT's names of these kinds.
_KINDS = (".lora_", ".lokr_", ".hada_")
_OF_PEFT = ("LORA", "LOKR", "LOHA")
# What some trainers write besides -> what it is.
_OTHERS = {".oft_": "OFT", ".boft_": "BOFT", ".diff": "full"}
_PEFT_CONFIG, _PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_adapters(pipe: Any, source: str, files: Path, number: int = 0) -> None:
    """Load the LoRA of a file, or of a folder that holds one, into the pipeline.

    Args:
        source: its name, for what is said.
        files: where it lies on this machine.
        number: how many were loaded before it.

    Raises:
        Unreadable: the pipeline takes none, there is not one, or some of it fits no layer.
    """
    if find_spec("peft") is None:
        raise Unreadable("--lora needs the extra: pip install 'headwater[lora]'")
    file, name = _one_file(files), name_of(number)
    require_no_pointers(file)
    tensors = load_file(file)
    _require_lora(tensors)
    parts = _parts(pipe)
    with warnings.catch_warnings():
        # that there are several is what was asked for
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        tensors = _load(pipe, parts["network"], file, tensors, name)
    _require_all(tensors, parts, source, name)
    _warn_of_unattributed(parts, source, name)


def _load(
    pipe: Any, network: Any, file: Path, tensors: dict[str, Tensor], name: str
) -> dict[str, Tensor]:
    """What should have been loaded, by the names it was loaded by."""
    if file.name == _PEFT_WEIGHTS and (file.parent / _PEFT_CONFIG).is_file():
        _load_peft(network, file.parent, tensors, name)
    elif all(each.split(".")[0] in dict(network.named_children()) for each in tensors):
        # `save_lora_adapter` of the network alone wrote it
        network.load_lora_adapter(str(file), prefix=None, adapter_name=name, use_safetensors=True)
    elif is_lycoris(tensors):
        return load_lycoris(pipe, network, tensors, name)
    elif hasattr(pipe, "load_lora_weights"):
        tensors = _converted(pipe, tensors)
        pipe.load_lora_weights(str(file), use_safetensors=True, adapter_name=name)
    else:
        raise Unreadable(
            f"{type(pipe).__name__} takes no LoRA adapters but those that PEFT saved of its "
            "network: save them so, or leave --lora out"
        )
    return tensors


def name_of(number: int) -> str:
    """Of an adapter in the network's names: the first is 0."""
    return NAME if number == 0 else f"{NAME}{number + 1}"


def weigh(pipe: Any, scales: Sequence[float]) -> None:
    """Let all adapters that were loaded take part, each times its factor."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    factors = {name_of(number): scale for number, scale in enumerate(scales)}
    layers: Any = (
        layer
        for part in _parts(pipe).values()
        for layer in part.modules()
        if isinstance(layer, BaseTunerLayer)
    )
    for layer in layers:
        own = [name for name in factors if name in layer.scaling]
        layer.set_adapter(own)
        for name in own:
            layer.set_scale(name, factors[name])


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
    files = safetensors_in(place)
    if place / _USUAL_FILE in files:
        return place / _USUAL_FILE
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
                f"it holds {kind} tensors ({_few(names)}), and headwater takes LoRA, LoKr and "
                "LoHa: merge them into a copy of the model and give that"
            )
    if not any(mark[1:] in name for name in tensors for mark in (".lora", *_KINDS)):
        raise Unreadable(
            f"no tensor in it ({_few(list(tensors))}) is of a LoRA: give a folder or a safetensors "
            "file written by `save_lora_weights`"
        )


def _converted(pipe: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same by the names and shapes of diffusers, factors (alpha) in them or left out.

    Raises:
        Unreadable: some would be lost, or are not known.
    """
    network = getattr(pipe, "unet", None)
    config = {} if network is None else {"unet_config": network.config}  # for SDXL's blocks

    def named_by_diffusers(given: dict[str, Tensor]) -> dict[str, Tensor]:
        found = pipe.lora_state_dict(dict(given), **config)
        return found[0] if isinstance(found, tuple) else found

    numbers = {name: number for number, name in enumerate(tensors, 1) if not is_factor(name)}
    marked = {
        name: torch.full(tensor.shape, float(numbers.get(name) or _rank(name, tensors)))
        for name, tensor in tensors.items()
    }
    arrived = {
        number
        for tensor in named_by_diffusers(marked).values()
        for number in tensor.unique().tolist()
    }
    lost = [name for name, number in numbers.items() if number not in arrived]
    if lost:
        raise Unreadable(
            f"{len(lost)} of its {len(tensors)} tensors are of a kind that diffusers does not load "
            f"({_few(lost)}): merge them into a copy of the model and give that"
        )
    return named_by_diffusers(tensors)


def _rank(name: str, tensors: Mapping[str, Tensor]) -> int:
    """That of the layer whose factor has this name: alpha over rank, the scale, is one for it."""
    stem = name.removesuffix("alpha")
    lower = ("lora_down.weight", "lora_A.weight", "lokr_w1_b", "lokr_w2_b")
    downs = (tensors.get(f"{stem}{down}") for down in lower)
    return next((len(down) for down in downs if down is not None), 1)


def _load_peft(network: Any, folder: Path, tensors: Mapping[str, Tensor], name: str) -> None:
    """What `PeftModel.save_pretrained` wrote of the network."""
    import peft

    kind = json.loads((folder / _PEFT_CONFIG).read_text(encoding="utf-8")).get("peft_type")
    if kind not in _OF_PEFT:
        raise Unreadable(
            f"it is an adapter of PEFT's type {kind}, and headwater takes {', '.join(_OF_PEFT)}"
        )
    config = peft.PeftConfig.from_pretrained(str(folder))
    own = {key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    try:
        peft.inject_adapter_in_model(config, network, adapter_name=name)
    except ValueError as error:
        raise Unreadable(
            f"PEFT's adapter for the layers {config.target_modules} is of another network than "  # pyright: ignore[reportAttributeAccessIssue]
            f"{type(network).__name__}"
        ) from error
    result = peft.set_peft_model_state_dict(network, own, adapter_name=name)
    missing = [key for key in result.missing_keys if _is_of(key, name)]
    if missing:
        raise Unreadable(
            f"its configuration names layers that it has no tensors of: {_few(missing)}"
        )
    network._hf_peft_config_loaded = True  # as diffusers' own loader leaves it


# --- what became of it ----------------------------------------------------------------------------


def _require_all(
    tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module], source: str, adapter: str
) -> None:
    """Refuse, or of text encoders warn of, tensors that no part of the pipeline has now."""
    there = [tensor for _, tensor in _adapter_tensors(parts.values(), adapter)]
    # of a network without numbers, by how many there would be
    key = torch.Tensor.numel if any(tensor.is_meta for tensor in there) else _key
    loaded, types = set(map(key, there)), {tensor.dtype for tensor in there}
    if not loaded:
        raise Unreadable(
            f"none of its tensors ({_few(list(tensors))}) are of this pipeline's layers"
        )
    dropped = [
        name
        for name, tensor in tensors.items()
        if not is_factor(name)
        and loaded.isdisjoint(key(tensor.to(each)) for each in types)  # rounded as the model is
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


def _warn_of_unattributed(parts: Mapping[str, nn.Module], source: str, adapter: str) -> None:
    lost: list[str] = []
    for name, part in parts.items():
        tensors = {} if name == "network" else dict(_adapter_tensors([part], adapter))
        layers = adapters_of(name, part).values()
        known = {id(parameter) for layer in layers for parameter in parameters_of(layer)}
        lost += [f"{name}.{key}" for key in tensors if id(part.get_parameter(key)) not in known]
    if lost:
        warnings.warn(
            f"--lora {source!r}: {len(lost)} tensors of text encoders in it are used, and never "
            f"attributed ({_few(lost)})",
            HeadwaterWarning,
            stacklevel=2,
        )


def _adapter_tensors(modules: Iterable[nn.Module], adapter: str) -> Iterator[tuple[str, Tensor]]:
    for module in modules:
        for name, tensor in module.state_dict().items():
            if _is_of(name, adapter):
                yield name, tensor


def _is_of(name: str, adapter: str) -> bool:
    """Whether a tensor of this name is one of the adapter's own."""
    return any(kind in name for kind in _KINDS) and adapter in name.split(".")


def _of_text_encoder(name: str) -> bool:
    return name.startswith(("text_encoder", "lora_te"))


def _key(tensor: Tensor) -> str:
    """By content: loading changes names, shapes of convolutions, and the type."""
    flat = tensor.detach().cpu().float().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
