"""Where models and adapters lie: on this machine, or on a hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.models.loading.weights import Unreadable, read_index, require_no_code
from headwater.storage.remote import DATASETS, HUB, here, hub_place

BUNDLED_MODEL = Path(__file__).parents[2] / "scenes" / "model"

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def place(source: str | Path) -> str:
    """Where a later process finds it: a path from the root, a hub name, or "scenes"."""
    path = Path(source)
    known = str(source) == "scenes" or not path.exists()
    return str(source) if known else str(path.resolve())


def on_this_machine(source: str) -> str:
    """A copy of what lies at a URL, anything else as it is.

    Of a repository of the hub it is the name, so that no more of it is fetched than is needed.

    Raises:
        StoreError: see `storage.remote.fetch`.
    """
    if source.startswith(HUB) and not source.startswith(DATASETS):
        repository, below, revision = hub_place(source)
        if not (below or revision):
            return repository
    return here(source)


def pipeline_folder(model: str) -> Path:
    """The folder of a model, on this machine by then.

    Raises:
        FileNotFoundError, Unreadable: there is neither; see `hub_errors`.
    """
    if model == "scenes":
        return BUNDLED_MODEL
    model = on_this_machine(model)
    path = Path(model)
    return path if path.is_dir() else _downloaded(model)


def _downloaded(model: str) -> Path:
    """The folder of a hub's pipeline in the cache, without what is not needed."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    with hub_errors(model):
        index = Path(hf_hub_download(model, "model_index.json"))
        require_no_code(index.parent, read_index(index.parent))
        folder = Path(DiffusionPipeline.download(model, use_safetensors=True))
        if _holds_weights(folder):
            return folder
        return Path(DiffusionPipeline.download(model, use_safetensors=True, variant="fp16"))


def _holds_weights(folder: Path) -> bool:
    return any(folder.glob("*/*.safetensors"))


def from_hub(source: str, *patterns: str) -> Path:
    """The file or folder of this name, or the files of a hub's repository in a folder.

    Args:
        patterns: of names of files that are fetched.

    Raises:
        FileNotFoundError, Unreadable: there is neither; see `hub_errors`.
    """
    from huggingface_hub import snapshot_download

    source = on_this_machine(source)
    path = Path(source)
    if path.exists():
        return path
    with hub_errors(source):
        return Path(snapshot_download(source, allow_patterns=list(patterns)))


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Say of what is on no disk why it is not on a hub either.

    Raises:
        FileNotFoundError: it is no name that a hub could have.
        Unreadable: there is no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import constants, errors

    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError("there is no such file or folder")
    try:
        yield
    except errors.GatedRepoError as error:
        raise Unreadable(
            f"the hub gives it to those who accepted its terms: do so at huggingface.co/{name}, "
            "then log in (`hf auth login`)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise Unreadable(
            "there is no such folder here and no such repository on the hub (for a private one "
            "log in: `hf auth login`)"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        offline = constants.HF_HUB_OFFLINE
        raise Unreadable(
            "there is no such folder here, it is not in the hub's cache, and "
            + (
                "HF_HUB_OFFLINE keeps us from asking the hub: unset it, or give a folder"
                if offline
                else "the hub cannot be reached: check the network, or give a folder"
            )
        ) from error
    except errors.EntryNotFoundError as error:
        raise Unreadable(
            "its repository has no model_index.json, so it is no pipeline of diffusers"
        ) from error
