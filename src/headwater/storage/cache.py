"""What was computed once and need not be again: files named after the facts that decide them.

The facts are everything that a number depends on, as JSON; their sha256 is the file's name. Other
facts are another file, so nothing that is out of date can be read, and nothing has to be deleted
for a number to be right. A cache is never worth an error: a file that is missing or damaged is
computed again, and a folder that cannot be written to costs a warning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from headwater.storage.files import keep, read_tensors_and_metadata, write_tensors

Tensors: TypeAlias = Mapping[str, Tensor]
Computed: TypeAlias = Tensors | tuple[Tensors, Mapping[str, Any]]
# What a file has to hold: tensors of floats by name, None being any length.
Sizes: TypeAlias = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True)
class Entry:
    """What a cache holds for some facts.

    `note` is what was said of the tensors where they were computed, as JSON; `cached` whether they
    were read, and not computed by this call.
    """

    tensors: dict[str, Tensor]
    note: dict[str, Any] = field(default_factory=dict)
    cached: bool = False


def key(facts: Any) -> str:
    """The sha256 of facts that JSON can hold, in hex. The order of dictionary keys is no fact.

    >>> key({"seed": 0, "steps": 20}) == key({"steps": 20, "seed": 0})
    True
    """
    return _sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False))


def path_of(folder: Path, facts: Any) -> Path:
    """Where a cache keeps what belongs to these facts."""
    return folder / f"{key(facts)[:32]}.safetensors"


def read(folder: Path, facts: Any, sizes: Sizes | None = None) -> Entry | None:
    """What is kept for these facts; None where it is missing or damaged.

    Args:
        sizes: what it holds, or it counts as damaged: a file may be of a stranger.
    """
    read_file = read_tensors_and_metadata(path_of(folder, facts))
    if read_file is None:
        return None
    tensors, metadata = read_file
    text = metadata.get("note", "")
    if metadata.get("note_sha256") != _sha256(text):  # the file's own checksum sees tensors only
        return None
    try:
        note = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_as_written = isinstance(note, dict) and (sizes is None or _have(tensors, sizes))
    return Entry(tensors, note, cached=True) if is_as_written else None


def _have(tensors: Tensors, sizes: Sizes) -> bool:
    """Whether these are tensors of finite floats of such sizes."""
    return tensors.keys() == sizes.keys() and all(
        tensor.is_floating_point()
        and tensor.dim() == len(sizes[name])
        and all(w in (n, None) for n, w in zip(tensor.shape, sizes[name], strict=True))
        and bool(tensor.sum(dtype=torch.float64).isfinite())
        for name, tensor in tensors.items()
    )


def remember(
    folder: Path,
    facts: Any,
    compute: Callable[[], Computed],
    *,
    fresh: bool = False,
    sizes: Sizes | None = None,
) -> Entry:
    """What is kept for these facts, computed and kept where it is not.

    What is computed comes back as it would be read, on the CPU, contiguous and with its note passed
    through JSON, so that the first answer and all later ones are the same.

    Args:
        folder: where the files are; made when the first one is written.
        facts: everything that the tensors depend on, as JSON.
        compute: makes the tensors, or the tensors and a note on them.
        fresh: compute again whatever is kept, and keep that instead.
        sizes: as of `read`.

    Raises:
        TypeError: JSON cannot hold the facts or the note.
    """
    entry = None if fresh else read(folder, facts, sizes)
    if entry is not None:
        return entry
    computed = compute()
    tensors, note = computed if isinstance(computed, tuple) else (computed, {})
    return write(folder, facts, tensors, note)


def write(folder: Path, facts: Any, tensors: Tensors, note: Mapping[str, Any]) -> Entry:
    """Keep what was computed for these facts, in place of what was kept before.

    Raises:
        TypeError: JSON cannot hold the facts or the note.
    """
    entry, metadata = _as_read(tensors, note)
    keep(path_of(folder, facts), entry.tensors, metadata)
    return entry


def store(folder: Path, facts: Any, tensors: Tensors, note: Mapping[str, Any]) -> Entry:
    """The same of what another process waits for there.

    Raises:
        ResourceError: the disk is full.
        StoreError: the folder cannot be written to.
        TypeError: as `write`.
    """
    entry, metadata = _as_read(tensors, note)
    write_tensors(path_of(folder, facts), entry.tensors, metadata)
    return entry


def forget(folder: Path, facts: Any) -> None:
    """Remove what is kept for these facts, if anything is and its disk lets it go."""
    with suppress(OSError):
        path_of(folder, facts).unlink()


def _as_read(tensors: Tensors, note: Mapping[str, Any]) -> tuple[Entry, dict[str, str]]:
    """What will be read, and the metadata of its file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(note)
    return Entry(tensors, json.loads(text)), {"note": text, "note_sha256": _sha256(text)}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
