"""Files of LyCORIS beside LoRA: LoKr and LoHa, as kohya's sd-scripts and others name them.

diffusers loads LoKr of some transformers (Z-Image, Flux.2) and neither for UNets. PEFT knows both
kinds, so that only names and scales are to be found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from headwater.models.loading.weights import Unreadable

# How LyCORIS names the network; its own trainer says nothing of which network it is.
_PREFIXES = ("lora_unet_", "lycoris_", "lora_transformer_")
_LOKR, _LOHA = ".lokr_", ".hada_"


def is_lycoris(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file is of LyCORIS' names and kinds."""
    return all(
        name.startswith(_PREFIXES) and (_LOKR in name or _LOHA in name or is_factor(name))
        for name in tensors
    )


def load_lycoris(
    pipe: Any, network: Any, tensors: Mapping[str, Tensor], adapter: str
) -> dict[str, Tensor]:
    """Load such a file into the network of a pipeline; what should be there then, by its names.

    Raises:
        Unreadable: some of it is of no layer of the network, or of both kinds.
    """
    stems = {name.rpartition(".")[0] for name in tensors}
    places = _places(pipe, network, stems)
    lost = sorted(stems - places.keys())
    if lost:
        raise Unreadable(
            f"{len(lost)} of its {len(stems)} layers are none of this model ({lost[0]}): it is of "
            "another model, or adapts text encoders too, which is not supported"
        )
    named = {
        f"{places[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in tensors.items()
    }
    kinds = {kind for kind in (_LOKR, _LOHA) if any(kind in name for name in named)}
    if len(kinds) != 1:
        raise Unreadable("it holds LoKr and LoHa together, which no library loads")
    if _LOKR in kinds:
        scaled = _scaled(named)
        network.load_lora_adapter(dict(scaled), prefix=None, adapter_name=adapter)
        return scaled
    return _load_loha(network, named, adapter)


def is_factor(name: str) -> bool:
    """Whether a name is of a layer's alpha, which with the rank makes its scale."""
    return name.endswith(".alpha")


def _places(pipe: Any, network: nn.Module, stems: set[str]) -> dict[str, str]:
    """Stem of names in the file -> the module that it is of."""
    modules = {name.replace(".", "_"): name for name, _ in network.named_modules()}
    found = {}
    for stem in stems:
        short = next(stem.removeprefix(p) for p in _PREFIXES if stem.startswith(p))
        if short in modules:
            found[stem] = modules[short]
    if not found and hasattr(pipe, "unet"):
        return _by_diffusers(pipe, modules, stems)
    return found


def _by_diffusers(pipe: Any, modules: Mapping[str, str], stems: set[str]) -> dict[str, str]:
    """The same for Stable Diffusion XL's blocks, which have two ways to be counted.

    diffusers knows the way of LoRA's names: a LoRA of marked tensors says where each stem goes.
    """
    numbers = {stem: float(number) for number, stem in enumerate(sorted(stems), 1)}
    marked = {
        f"{stem}.lora_{side}.weight": torch.full((1, 1), number)
        for stem, number in numbers.items()
        for side in ("down", "up")
    }
    named, *_ = pipe.lora_state_dict(marked, unet_config=pipe.unet.config)
    goes = {tensor.item(): name for name, tensor in named.items()}
    found = {}
    for stem, number in numbers.items():
        flat = goes[number].removeprefix("unet.").replace("processor.", "").replace(".", "_")
        module = modules.get(flat.partition("_lora")[0])
        if module is not None:
            found[stem] = module
    return found


def _scaled(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LoKr with its scale in the numbers, as diffusers wants it: alpha over rank, if it has one."""
    out = {name: tensor for name, tensor in named.items() if not is_factor(name)}
    for name, alpha in named.items():
        stem = name.removesuffix(".alpha")
        ranks = [named.get(f"{stem}.lokr_w{side}_b") for side in (1, 2)]
        rank = next((len(low) for low in ranks if low is not None), None)
        if is_factor(name) and rank is not None:
            first = f"{stem}.lokr_w1" if f"{stem}.lokr_w1" in out else f"{stem}.lokr_w1_a"
            out[first] = out[first] * (alpha.item() / rank)
    return out


def _load_loha(network: Any, named: Mapping[str, Tensor], adapter: str) -> dict[str, Tensor]:
    import peft

    modules = sorted({name.rpartition(".")[0] for name in named})
    ranks = {name: len(named[f"{name}.hada_w1_b"]) for name in modules}
    alphas = {
        name: named[f"{name}.alpha"].item() if f"{name}.alpha" in named else float(rank)
        for name, rank in ranks.items()
    }
    first = modules[0]
    config = peft.LoHaConfig(
        r=ranks[first],
        alpha=alphas[first],  # pyright: ignore[reportArgumentType] - a float, in files
        rank_pattern=ranks,
        alpha_pattern=alphas,  # pyright: ignore[reportArgumentType]
        target_modules=modules,
        use_effective_conv2d=any(".hada_t1" in name for name in named),
    )
    peft.inject_adapter_in_model(config, network, adapter_name=adapter)
    state = {name: tensor for name, tensor in named.items() if not is_factor(name)}
    peft.set_peft_model_state_dict(network, dict(state), adapter_name=adapter)
    network._hf_peft_config_loaded = True  # as diffusers' own loader leaves it
    return state
