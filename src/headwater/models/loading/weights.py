"""Weights on disk: which files hold them, and whether what was loaded is all that they hold.

Left to themselves, libraries fill tensors that a file lacks with random numbers and drop those that
they have no place for, and say so where nobody looks.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

# Files of this text stand for large ones in a git repository.
_POINTER, _POINTER_SIZE = b"version https://git-lfs", 1024
# Wrappers put these before every name.
_WRAPPERS = ("_orig_mod.module.", "module._orig_mod.", "_orig_mod.", "module.", "model.")
# Tensors of a whole CLIP that its text model has no use for, and indices that are no weights.
_UNUSED = re.compile(
    r"(^|\.)position_ids$|^text_projection\.|^logit_scale$|^vision_model\.|^visual_projection\."
)


class Unreadable(Exception):
    """Why a model cannot be loaded, and the mend; whoever catches it says which model it is."""


# What is to be done with a file or folder that is no pipeline by itself.
NETWORK_ALONE = "it holds a network alone: give the pipeline that it is part of as --base"


def safetensors_in(place: Path) -> list[Path]:
    """The file itself, or those of a folder, by name.

    Raises:
        Unreadable: it is a file of another format.
    """
    if not place.is_file():
        return sorted(place.glob("*.safetensors"))
    if place.suffix != ".safetensors":
        raise Unreadable("it is no safetensors file, and other formats can run code")
    return [place]


def require_no_pointers(place: Path) -> None:
    """Refuse a file, or a folder with a file, that git-lfs has not fetched.

    Raises:
        Unreadable: names it.
    """
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    for file in files:
        if file.is_file() and file.stat().st_size < _POINTER_SIZE:
            with file.open("rb") as start:
                pointer = start.read(len(_POINTER)) == _POINTER
            if pointer:
                raise Unreadable(
                    f"{_short(file)} is a git-lfs pointer, not the file itself: run `git lfs pull` "
                    "where it was cloned"
                )


def load_whole(kind: Any, folder: Path, **options: Any) -> Any:
    """A network of diffusers or transformers from a folder, with every weight from its files.

    Args:
        kind: its class.
        options: more of `from_pretrained`.

    Raises:
        Unreadable: there are no safetensors, or their tensors are not those of the network.
    """
    of_transformers = kind.__module__.startswith("transformers.")
    stem = "model" if of_transformers else "diffusion_pytorch_model"
    require_no_pointers(folder)
    require_unquantised(folder)
    variant = variant_of(folder, stem)
    if _holds_adapters(folder):
        raise Unreadable(
            "LoRA adapters were saved inside it; save them by `save_lora_weights`, give the model "
            "without them, and the adapters as --lora"
        )
    if of_transformers:
        options["ignore_mismatched_sizes"] = True  # they are named below
    # Weights in any other format are pickles, which could run code.
    model, found = kind.from_pretrained(
        folder, variant=variant, use_safetensors=True, output_loading_info=True, **options
    )
    _require_same(folder.name, found)
    return model


def variant_of(folder: Path, stem: str) -> str | None:
    """Which variant of its weights a folder holds: None for the plain ones, or "fp16".

    Raises:
        Unreadable: none in safetensors, or several and none is plain.
    """
    if not folder.is_dir():
        raise Unreadable(f"it has no folder {folder.name!r}")
    names = [file.name for file in folder.glob("*.safetensors*")]
    shard = r"(?:-\d+-of-\d+)?\.safetensors"
    if any(re.fullmatch(rf"{stem}{shard}", name) for name in names):
        return None
    named = (re.fullmatch(rf"{stem}\.([\w-]+?){shard}", name) for name in names)
    variants = sorted({match[1] for match in named if match})
    if len(variants) == 1:
        return variants[0]
    if variants:
        raise Unreadable(
            f"{folder.name} holds the variants {', '.join(variants)} and no {stem}.safetensors: "
            "keep one of them"
        )
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if pickles:
        raise Unreadable(
            f"{folder.name} holds {pickles[0]} and no safetensors, and pickles can run code: if "
            'you trust it, convert it by `python -c "from diffusers import DiffusionPipeline as P; '
            f"P.from_pretrained({str(folder.parent)!r}, use_safetensors=False)"
            ".save_pretrained('converted')\"`"
        )
    raise Unreadable(f"{folder.name} holds no {stem}.safetensors")


def require_unquantised(folder: Path) -> None:
    """Refuse a network whose configuration says that it was quantised.

    Raises:
        Unreadable: says by what.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if config.get("quantization_config"):
        how = config["quantization_config"].get("quant_method", "some library")
        raise Unreadable(
            f"{folder.name} was saved with its numbers rounded to a few bits ({how}): give the "
            "model as trained; --dtype bfloat16 halves what it takes"
        )


def _holds_adapters(folder: Path) -> bool:
    """Whether a network was saved with PEFT layers in it, which no pipeline loads again.

    Left alone, the weights that PEFT gave other names would be random, or on no device.
    """
    return any(
        ".base_layer." in name
        for file in folder.glob("*.safetensors")
        for name in safe_open(file, "pt").keys()
    )


def _require_same(part: str, found: dict[str, Any]) -> None:
    """Refuse what a `from_pretrained` says of tensors without a place and places without one."""
    missing = sorted(found["missing_keys"])
    unexpected = sorted(name for name in found["unexpected_keys"] if not _UNUSED.search(name))
    mismatched = sorted(str(entry[0]) for entry in found.get("mismatched_keys", ()))
    if mismatched:
        raise Unreadable(
            f"{part}: {named(mismatched)} of another size than config.json says: it is the "
            "configuration of another model"
        )
    if missing or unexpected:
        raise Unreadable(f"{part}: {_difference(missing, unexpected)}")


def _difference(missing: list[str], unexpected: list[str]) -> str:
    """What is wrong with a file's tensors, and the mend."""
    wrapper = next((w for w in _WRAPPERS if all(n.startswith(w) for n in unexpected)), "")
    if unexpected and wrapper:
        return (
            f"{named(unexpected)} named with {wrapper!r}, of a wrapper (DistributedDataParallel, "
            "torch.compile), before the name: save the model inside it"
        )
    mend = "save the whole model again with `save_pretrained`"
    if not missing:
        return f"{named(unexpected)} of no use to the network: is it another's? Or {mend}"
    more = f", and {len(unexpected)} others are there" if unexpected else ""
    return f"{named(missing)} not in its file{more}; they would be random numbers: {mend}"


def named(names: list[str]) -> str:
    """Up to three names of tensors and how many there are, with the verb."""
    few = ", ".join(names[:3])
    if len(names) == 1:
        return f"1 tensor ({few}) is"
    return f"{len(names)} tensors ({few}{', ...' if len(names) > 3 else ''}) are"


def _short(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def read_index(folder: Path) -> dict[str, Any]:
    """The model_index.json of a folder.

    Raises:
        Unreadable: there is none, or it is not what it should be.
    """
    file = folder / "model_index.json"
    if not file.is_file():
        raise Unreadable("it has no model_index.json: give a folder saved with `save_pretrained`")
    require_no_pointers(file)
    index = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(index, dict):
        raise Unreadable("its model_index.json is no JSON object")
    return index


def require_no_code(folder: Path, index: dict[str, Any]) -> None:
    """Refuse a `model_index.json` that names classes of files of its own, which would be run.

    Raises:
        Unreadable: names the file.
    """
    from diffusers import pipelines

    name = index.get("_class_name")
    if not isinstance(name, str):
        raise Unreadable(f"its pipeline is code of its own ({_code(name)}), which is never run")
    for part, kind in index.items():
        if part.startswith("_") or not isinstance(kind, list) or len(kind) != 2:
            continue
        library = kind[0]
        known = library in (None, "diffusers", "transformers")
        if not known and not (isinstance(library, str) and hasattr(pipelines, library)):
            raise Unreadable(f"its {part} is code of its own ({_code(kind)}), which is never run")
        if str(kind[1]).startswith("Auto") and _maps_to_code(folder / part):
            raise Unreadable(f"its {part} is code of its own (auto_map), which is never run")


def _code(kind: Any) -> str:
    return f"{kind[0]}.py" if isinstance(kind, list) and kind else f"_class_name is {kind!r}"


def _maps_to_code(folder: Path) -> bool:
    return any(
        "auto_map" in json.loads(file.read_text(encoding="utf-8"))
        for file in folder.glob("*config.json")
    )
