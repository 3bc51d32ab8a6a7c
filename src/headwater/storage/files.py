"""Files that are whole or not there: a temporary name, a sync, a rename; and their checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headwater.errors import HeadwaterWarning, ResourceError, StoreError, first_line

log = logging.getLogger(__name__)

DAY = 24 * 60 * 60  # seconds; no write takes as long
# Bytes: of an index of a billion images `index.json` has a fifth of that.
LARGEST_JSON = 2**28

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_OURS = errno.EROFS, errno.EACCES, errno.EPERM
_MENDS = dict.fromkeys(_NOT_OURS, ": make it writable, or name another folder")
_MENDS |= dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), ": name another folder")
# Of a folder: there is no such thing on this file system, or (Windows) no way to open one.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EISDIR)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with renamed(path) as part:
        part.write_text(text, encoding="utf-8")


def write_image(path: Path, image: Image.Image) -> None:
    """Write a PNG file atomically."""
    with renamed(path) as part:
        image.save(part, format="PNG")


def write_jpeg(path: Path, image: Image.Image) -> None:
    """Write a JPEG file atomically."""
    with renamed(path) as part:
        image.save(part, format="JPEG", quality=90)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an `.npy` file atomically."""
    with renamed(path) as part, part.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet file atomically."""
    write_tables(path, [table])


def write_tables(path: Path, tables: Iterable[pa.Table], **options: Any) -> None:
    """The same from one table after the other, each of which is a row group, or several.

    Args:
        tables: one at least.
        options: of `pyarrow.parquet.ParquetWriter`.
    """
    left = iter(tables)
    first = next(left)
    with renamed(path) as part, pq.ParquetWriter(part, first.schema, **options) as writer:
        for table in chain([first], left):
            writer.write_table(table)


def arrow_array(numbers: np.ndarray) -> pa.Array:
    """What `pa.array` makes of a row of numbers, which imports pandas to see if it is one of its.

    >>> arrow_array(np.array([True, False])).to_pylist()
    [True, False]
    """
    stored = np.packbits(numbers, bitorder="little") if numbers.dtype == bool else numbers
    kind, buffer = pa.from_numpy_dtype(numbers.dtype), pa.py_buffer(np.ascontiguousarray(stored))
    return pa.Array.from_buffers(kind, len(numbers), [None, buffer])


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, with a checksum that `read_tensors` verifies."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with renamed(path) as part:
        save_file(tensors, part, metadata={**metadata, "sha256": digest_of(tensors)})


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """What `write_tensors` wrote; None where it is missing, damaged or of other making."""
    read = read_tensors_and_metadata(path)
    return None if read is None else read[0]


def read_tensors_and_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The tensors and the metadata that `write_tensors` wrote; None as for `read_tensors`.

    The checksum is of the tensors alone.
    """
    try:
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            # Copied out of the file's mapping, whose alignment would change how products round.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return (tensors, metadata) if metadata.get("sha256") == digest_of(tensors) else None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: it cannot be read: a device, a pipe, no UTF-8, more than `LARGEST_JSON`.
        ValueError: it is no JSON.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise StoreError(f"{path} is no file: remove it")
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:  # what is parsed takes ten times as much memory
            raise StoreError(
                f"{path} has {size / 2**20:,.0f} MiB, and nobody writes more than "
                f"{LARGEST_JSON / 2**20:,.0f}: put the right file there, or remove it"
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {path}: {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def keep(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Keep for the next time; an index that cannot be written to still answers."""
    try:
        write_tensors(path, tensors, metadata)
        remove_parts(path.parent)
    except (StoreError, ResourceError) as error:
        warnings.warn(f"not kept for the next time: {error}", HeadwaterWarning, stacklevel=2)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors and their names, types and shapes, in hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def remove_parts(folder: Path, older_than: float = DAY) -> None:
    """Remove what writes left that were killed, and is so many seconds old.

    A `.part`, or what safetensors writes beside it first.
    """
    for part in (*folder.glob("*.part"), *folder.glob(".tmp??????")):
        with suppress(OSError):
            if part.stat().st_mtime <= time.time() - older_than:
                part.unlink()


def remove_abandoned(*folders: Path) -> None:
    """Remove what a kill left in folders of answers, which several commands may write into.

    A write of an answer that goes on has written something within the last minute.
    """
    for folder in folders:
        remove_parts(folder, older_than=60)


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """A temporary name to write to; synced and renamed at the end, removed on any error.

    Raises:
        ResourceError, StoreError: as of `changing`.
    """
    part = path.with_name(f"{path.name}.{uuid4().hex[:12]}.part")  # others may write it as well
    with changing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
            mode = part.stat().st_mode
            yield part
            if part.stat().st_mode != mode:  # safetensors lets nobody else read what it writes
                part.chmod(mode)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
    log.debug("wrote %s", path)


@contextmanager
def changing(path: Path | str) -> Iterator[None]:
    """Say in one line why a file, a folder or a URL could not be written or removed.

    Raises:
        ResourceError: the disk is full.
        StoreError: it is read-only, or refuses for another reason.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if is_full(error):
            raise ResourceError(
                f"no space left to write {path}: free some and run the same command again; "
                "what was finished is kept"
            ) from None
        raise StoreError(f"cannot write {path}: {_why_not(error)}") from None


def is_full(error: Exception) -> bool:
    """Whether a disk, or somebody's share of it, had no room left.

    >>> is_full(OSError(28, "No space left on device")), is_full(OSError(5, "Input/output error"))
    (True, False)
    """
    text = str(error)  # of Rust's and NumPy's errors that is all
    cut_short = "requested and" in text and "written" in text
    return getattr(error, "errno", None) in _FULL or "No space left" in text or cut_short


def _why_not(error: Exception) -> str:
    """What kept a disk from being changed, and what to do about it if that is known."""
    said = getattr(error, "strerror", None) or first_line(error)
    return said + _MENDS.get(getattr(error, "errno", None) or 0, "")


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk: the folder holds the name, and a sync of the file does not."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


# --- checksums -----------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """The file's sha256, in hex: of what a third party may want to verify."""
    return _hex(path, hashlib.sha256())


def checksum_of(path: Path) -> str:
    """The file's checksum against damage, `xxh3:` and XXH3 of 128 bits in hex: as fast as a disk.

    It is no defence against somebody who changes a file on purpose: sha256 is.
    """
    return f"xxh3:{_hex(path, xxhash.xxh3_128())}"


def has_checksum(path: Path, checksum: str) -> bool:
    """Whether a file has this checksum: `xxh3:` or, of format version 1, `sha256:` and hex."""
    kind, _, _ = checksum.partition(":")
    return checksum == (f"sha256:{sha256_of(path)}" if kind == "sha256" else checksum_of(path))


def _hex(path: Path, digest: Any) -> str:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(errno.EINVAL, "is no file")
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def slug(text: str) -> str:
    """A file name that still reads like the text."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:60] or "query"


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, numbered from 2 where one was there before.

    >>> distinct_names(["star", "moon", "star"])
    ['star', 'moon', 'star-2']
    """
    made: list[str] = []
    for name in names:
        numbered, number = name, 1
        while numbered in made:  # a name may end in a number too
            number += 1
            numbered = f"{name}-{number}"
        made.append(numbered)
    return made
