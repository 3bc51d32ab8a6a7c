"""The folder of an index: begun, found again, or left as it was."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from headwater.data.training_set import IN_MEMORY, TrainingSet
from headwater.errors import MismatchError, StoreError
from headwater.index.config import Recipe
from headwater.index.curvature.origin import FITTED
from headwater.index.samples import data_facts
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.storage.claims import FOLDER as CLAIMS
from headwater.storage.files import changing
from headwater.storage.lock import LOCK_FILES
from headwater.storage.manifest import (
    REMOVED,
    Manifest,
    read_manifest,
    require_same,
    write_manifest,
)
from headwater.storage.shards import default_shard_rows

# What an index folder holds; --overwrite removes no other folder.
_OWN = (
    "index.json", "samples.parquet", "features", "kernels", "queries", "similarity", "checkpoints",
    "curvature", REMOVED, CLAIMS, *LOCK_FILES,
)  # fmt: skip


def new_manifest(
    denoiser: Denoiser, data: TrainingSet, recipe: Recipe, clip: Clip | None
) -> Manifest:
    packages = ("headwater", "torch", "diffusers", "transformers")
    return Manifest(
        recipe=recipe.facts(),
        model={
            "source": denoiser.source,
            "dtype": str(denoiser.dtype).removeprefix("torch."),
            "fingerprint": denoiser.fingerprint(),
            **({} if clip is None else {"clip_source": clip.source}),
            "options": denoiser.options,
        },
        data=data_facts(data),
        versions={name: metadata.version(name) for name in packages}
        | {"python": platform.python_version(), "device": denoiser.device.type},
        shard_rows=default_shard_rows(len(data)),
    )


def begin(out: Path, manifest: Manifest, overwrite: bool) -> Manifest:
    """The manifest to build under: the one there if it is of the same run, else the new one."""
    if (out / "index.json").exists() and not overwrite:
        old = read_manifest(out)
        require_same(out, old, manifest)
        return _found_again(out, old, manifest)
    if out.exists() and not _is_empty(out):
        if not overwrite:
            raise MismatchError(f"{out} holds other files: name an empty or a new folder")
        if not (out / "index.json").exists():
            raise MismatchError(f"{out} holds no index, so --overwrite leaves it alone")
        foreign = [p.name for p in out.iterdir() if p.suffix != ".part" and p.name not in _OWN]
        if foreign:
            raise MismatchError(
                f"{out} holds more than an index ({min(foreign)}), so --overwrite leaves it alone"
            )
        with changing(out):
            _empty(out)
    write_manifest(out, manifest)
    return manifest


def refuse_file(out: Path) -> None:
    """Refuse a file where a folder is meant.

    Raises:
        StoreError: it is one.
    """
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out} is a file: name a folder for the index")


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what a write left that was killed, or locks."""
    locks = (CLAIMS, *LOCK_FILES)
    return all(path.suffix == ".part" or path.name in locks for path in folder.iterdir())


def _empty(folder: Path) -> None:
    """Remove what is in a folder; the folder itself may be a link to another disk, and stays.

    `index.json` stays until another takes its place: without it nobody could tell, after a kill,
    that the folder held an index.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in ("index.json", *LOCK_FILES):
            path.unlink()


def _found_again(out: Path, old: Manifest, new: Manifest) -> Manifest:
    """The old manifest, with the places where the same model and data are now."""
    data = old.data if new.data["source"] == IN_MEMORY else new.data
    # a curvature is that of the images it was begun with
    fitted = {name: value for name, value in old.data.items() if name == FITTED}
    data = {name: value for name, value in data.items() if name != FITTED} | fitted
    # what is in memory is in no place
    found = new.model if new.model["source"] else {**new.model, **_places(old.model)}
    moved = replace(old, model={**old.model, **found}, data=data)
    if moved != old:
        write_manifest(out, moved)
    return moved


def _places(model: Mapping[str, Any]) -> dict[str, Any]:
    return {name: model[name] for name in ("source", "options") if name in model}


def withdraw(out: Path) -> None:
    """Leave nothing of a run that failed before its first shard was whole.

    Where a disk keeps it all the same, that is no reason to hide why the run failed.
    """
    with suppress(OSError):
        (out / "index.json").unlink(missing_ok=True)
    for name in ("features", "curvature"):  # parts of workers that were killed, and empty folders
        shutil.rmtree(out / name, ignore_errors=True)
