"""Single files, as trainers and galleries hold them: a whole pipeline's weights, or a network's.

What such a file does not say (configurations, tokenizers) is in a folder, --base, bundled, or on
the hub. A library leaves what a file lacks without numbers, and drops what it has no place for;
both are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from headwater.errors import first_line
from headwater.models.loading.bundled import bundled
from headwater.models.loading.folders import (
    NETWORKS,
    absent,
    class_of,
    pipeline_of_folder,
)
from headwater.models.loading.hub import from_hub, pipeline_folder
from headwater.models.loading.weights import (
    NETWORK_ALONE,
    Unreadable,
    load_whole,
    named,
    read_index,
    require_no_code,
    require_no_pointers,
)

Tensors = dict[str, Tensor]

# How names of tensors begin that are of autoencoders and text encoders.
_OF_ENCODERS = (
    "first_stage_model.", "vae.", "cond_stage_model.", "conditioner.", "text_encoders.",
)  # fmt: skip
# Of a repository, what a pipeline is described by: none of its weights.
_DESCRIPTION = ("*.json", "*.txt", "*.model")
# Formats of other programs -> how to make a safetensors file of one.
_CONVERSION = (
    'python -c "import torch, safetensors.torch as s; d = torch.load({0!r}, weights_only=True); '
    "s.save_file({{k: v.contiguous() for k, v in d.get('state_dict', d).items() if "
    "torch.is_tensor(v)}}, 'model.safetensors')\""
)


def pipeline_of_file(file: Path, base: str | None, dtype: torch.dtype) -> Any:
    """The pipeline of a single safetensors file.

    Args:
        base: of a whole pipeline's file the folder or hub name of one of the same kind, for its
            configurations and tokenizers (None for the one that diffusers knows for such a file,
            which is bundled or on the hub); of a network's file the pipeline around it.
        dtype: of the weights.

    Raises:
        Unreadable: it is no such file, something is not in it, or some of it has no place.
    """
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    require_model_file(file)
    tensors = load_file(file)
    whole = is_whole(tensors)
    try:
        with _nothing_dropped():
            return (_of_all if whole else _of_network)(file, tensors, base, dtype)
    except SingleFileComponentError as error:
        raise Unreadable(
            f"it is of another model than --base, or lacks a part, which a --base with weights "
            f"lends ({first_line(error)})"
        ) from error


def _of_all(file: Path, tensors: Tensors, base: str | None, dtype: torch.dtype) -> Any:
    """The pipeline whose parts are all in the file."""
    folder = description_of(tensors, base)
    index = read_index(folder)
    require_no_code(folder, index)
    kind = class_of(["diffusers", index["_class_name"]])
    if not hasattr(kind, "from_single_file"):
        raise Unreadable(f"{kind.__name__} is read from no single file: is --base of this model?")
    # where it is not told of a folder it asks the hub
    how = dict(config=str(folder), local_files_only=True, **absent(index))
    pipe = _without_gaps(partial(kind.from_single_file, str(file), **how), dtype)
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            _require_numbers(name, part)
    return pipe


def description_of(tensors: Tensors, base: str | None) -> Path:
    """The folder of configurations and tokenizers for the file of a whole pipeline.

    Raises:
        Unreadable: the one that diffusers knows for such a file is not here and cannot be had.
    """
    if base:
        return from_hub(base, *_DESCRIPTION)
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    name = fetch_diffusers_config(tensors)["pretrained_model_name_or_path"]
    own = bundled(name, tensors)
    if own is not None:
        return own
    try:
        return from_hub(name, *_DESCRIPTION)
    except Unreadable as reason:
        raise Unreadable(
            f"it has no configurations and tokenizers, and those of {name} cannot be had "
            f"({reason}); or give a pipeline's folder of the same kind as --base"
        ) from reason.__cause__


def _of_network(file: Path, tensors: Tensors, base: str | None, dtype: torch.dtype) -> Any:
    """The pipeline `base` around the network of the file."""
    if base is None:
        raise Unreadable(NETWORK_ALONE)
    folder = pipeline_folder(base)
    index = read_index(folder)
    part = next((name for name in NETWORKS if index.get(name)), "")
    kind: Any = class_of(index[part]) if part else None
    if not hasattr(kind, "from_single_file"):
        raise Unreadable(f"--base {base!r} has no network that a single file is read for")
    how = dict(config=str(folder / part), local_files_only=True)
    network = _without_gaps(partial(kind.from_single_file, tensors, **how), dtype)
    _require_numbers(part, network)
    read = partial(load_whole, torch_dtype=dtype)
    return pipeline_of_folder(folder, read, **{part: network})


def _without_gaps(load: Callable[..., Any], dtype: torch.dtype) -> Any:
    """What is loaded in this type, which cannot be given to a network with gaps."""
    try:
        return load(torch_dtype=dtype)
    except NotImplementedError as error:  # torch's, of tensors on the meta device
        raise Unreadable(
            "some of the network's tensors are not in the file: is --base of this model, and the "
            "file whole?"
        ) from error


def is_whole(names: Iterable[str]) -> bool:
    """Whether tensors of these names are of a whole pipeline: else of a network alone."""
    return any(name.startswith(_OF_ENCODERS) for name in names)


def require_model_file(file: Path) -> None:
    """Refuse a file that is no model in safetensors.

    Raises:
        Unreadable: says what it is, and what to do.
    """
    require_no_pointers(file)
    if file.suffix == ".gguf":
        raise Unreadable("its numbers are rounded to a few bits (gguf): give the model as trained")
    if file.suffix != ".safetensors":
        raise Unreadable(
            "it is no safetensors file, and pickles can run code: convert it by "
            f"`{_CONVERSION.format(str(file))}`"
        )
    if any("lora_" in name for name in safe_open(file, "pt").keys()):
        raise Unreadable(
            "it holds LoRA adapters: give the model that they were trained on, and this as --lora"
        )


def _require_numbers(part: str, network: nn.Module) -> None:
    """Refuse a network with tensors that the file did not hold."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    missing = sorted(name for name, tensor in tensors if tensor.is_meta)
    if missing:
        raise Unreadable(f"{part}: {named(missing)} not in the file: is --base of this model?")


@contextmanager
def _nothing_dropped() -> Iterator[None]:
    """Refuse tensors that diffusers has no use for, of which it says a word in its log."""
    dropped: list[str] = []
    log = logging.getLogger("diffusers.loaders.single_file_model")
    listener = logging.Handler()
    listener.emit = lambda record: dropped.append(record.getMessage())
    level, log.level, log.propagate = log.level, logging.WARNING, False
    log.addHandler(listener)
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.setLevel(level)
        log.propagate = True
    for message in dropped:
        if "were not used" in message:
            names = message.partition("[")[2].strip("[]'").split(", ")
            raise Unreadable(f"{named(names)} of no use to the network: is --base of this model?")
