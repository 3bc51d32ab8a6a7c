"""A session from nothing: the index of a model and images, beside the images, built once."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from headwater.attribution.session import Session
from headwater.data.sources import load_dataset
from headwater.data.training_set import TrainingSet
from headwater.errors import MismatchError, StoreError
from headwater.index.build import build_index
from headwater.index.config import FEATURES_VERSION
from headwater.methods.choice import served_by, side_of
from headwater.methods.table import DEFAULT_METHOD
from headwater.models.denoiser import Denoiser
from headwater.models.loading.hub import place
from headwater.models.loading.options import ModelOptions, normal
from headwater.storage.files import sha256_of
from headwater.storage.manifest import read_manifest

# Where indexes of images lie that are in no folder of this machine.
_ELSEWHERE = Path("headwater-indexes")
# The end of what `build_index` says of an index that was begun otherwise.
_OVERWRITE = "or --overwrite"
# What of a recipe stands in an index as it was asked for.
_CHOICES = ("method", "parameters", "projection", "dim", "seed")


def session_of(
    model: str | Path,
    data: str | Path | TrainingSet,
    folder: str | Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Session:
    """A session on the index of these images, which is built where it is not there yet.

    A build that was interrupted goes on.

    Args:
        model: as `Denoiser.load` takes it.
        data: as `load_dataset` takes it, or what that gave.
        folder: of the index; by default one beside the images, by what it is of: other adapters
            and other images have another.
        recipe: options of `build_index`.
        note: called with a line of text on what is done.
        options: of `Denoiser.load`: adapters, device, type.

    Raises:
        StoreError: nothing can be written beside the images.
        ModelError, DatasetError, MismatchError: see `Denoiser.load`, `load_dataset`, `build_index`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as out:
    ...     session = session_of("scenes", load_dataset("scenes").first(4), out, {"dim": 16})
    ...     len(session.index)
    4
    """
    images = data if isinstance(data, TrainingSet) else load_dataset(data)
    known = {name: options[name] for name in ModelOptions.__annotations__ if name in options}
    facts, recipe = normal(known), dict(recipe or {})
    wanted = {"source": place(model), "dtype": _name(options.get("dtype")), "options": facts}
    out = Path(folder) if folder else _beside(images, wanted, recipe)
    if _is_there(out, wanted, recipe, images.fingerprint):
        note(f"index {out}")
        return Session.open(out, device=options.get("device"), training_set=images)
    denoiser = Denoiser.load(model, **options)
    _require_writable(out)
    note(f"index {out}, which is built once")
    try:
        return Session(build_index(denoiser, images, out, note=note, **recipe))
    except MismatchError as error:
        raise _mended_here(error, out, recipe.get("method", DEFAULT_METHOD)) from None


def _mended_here(error: MismatchError, out: Path, method: str) -> MismatchError:
    """The same, where an index was begun otherwise, with what mends it: nothing overwrites here."""
    begun, _, mend = str(error).rpartition(": ")
    if not mend.endswith(_OVERWRITE):
        return error
    folder, old = shlex.quote(str(out)), read_manifest(out).recipe
    served = _served(old)
    before = old["method"] if old["method"] in served else served[0]
    finish = (
        f"finish it by `headwater index MODEL DATA {folder} --method {before}` with the options it "
        "was begun with, "
    )
    return MismatchError(
        f"{begun}: {finish if before != method else ''}remove it (`rm -r {folder}`), or give "
        "another folder as --index"
    )


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype or torch.float32).removeprefix("torch.")


def _beside(images: TrainingSet, model: Mapping[str, Any], recipe: Mapping[str, Any]) -> Path:
    """The folder of the index of these images, and of no other model, recipe or images."""
    known = [model, _versions(model), recipe, images.fingerprint, FEATURES_VERSION]
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]
    source = Path(images.source)
    if source.exists():
        return source.parent / f"{source.name}.headwater" / digest
    return _ELSEWHERE / images.source.replace("/", "-").replace(":", "-") / digest


def _versions(model: Mapping[str, Any]) -> list[str]:
    """What tells adapters and a model from those that lay in the same place before.

    Adapters by their contents; a model, which would take long to read, by when it was written.
    """
    options = model["options"]
    kinds = ("lora", "token")
    small = [name.rpartition("=")[2] for kind in kinds for name in options.get(kind, ())]
    large = [name for name in (model["source"], options.get("base")) if name]
    return [
        *(sha256_of(file) for name in small for file in _weights(Path(name))),
        *(str(file.stat().st_mtime_ns) for name in large for file in _weights(Path(name))),
    ]


def _weights(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.safetensors"))


def _is_there(
    out: Path, model: Mapping[str, Any], recipe: Mapping[str, Any], fingerprint: str
) -> bool:
    """Whether a finished index lies there, of this model, recipe and images."""
    if not (out / "index.json").exists():
        return False
    manifest = read_manifest(out)
    found = {"options": {}, **manifest.model}
    return (
        manifest.complete
        and all(found[name] == value for name, value in model.items())
        and all(manifest.recipe[name] == recipe[name] for name in _CHOICES if name in recipe)
        and recipe.get("method") in (None, *_served(manifest.recipe))
        and manifest.data["fingerprint"] == fingerprint
    )


def _served(recipe: Mapping[str, Any]) -> list[str]:
    """What rows of this recipe serve: an older index may be named for a method that changed."""
    return served_by(side_of(recipe), recipe["normalise"], curvature=recipe.get("curvature", ""))


def _require_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot write {out} ({error.strerror}): give another folder for the index as --index"
        ) from None
