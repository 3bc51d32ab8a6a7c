"""Files that are whole or not there: a temporary name, a sync, a rename; and their checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headwater.errors import HeadwaterWarning, ResourceError, StoreError


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with renamed(path) as part:
        part.write_text(text, encoding="utf-8")


def write_image(path: Path, image: Image.Image) -> None:
    """Write a PNG file atomically."""
    with renamed(path) as part:
        image.save(part, format="PNG")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet file atomically."""
    with renamed(path) as part:
        pq.write_table(table, part)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, with a checksum that `read_tensors` verifies."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with renamed(path) as part:
        save_file(tensors, part, metadata={**metadata, "sha256": _digest(tensors)})


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """What `write_tensors` wrote; None where it is missing, damaged or of other making."""
    read = read_tensors_and_metadata(path)
    return None if read is None else read[0]


def read_tensors_and_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The tensors and the metadata that `write_tensors` wrote; None as for `read_tensors`.

    The checksum is of the tensors alone.
    """
    try:
        with safe_open(path, "pt") as file:
            # Copied out of the file's mapping, whose alignment would change how products round.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return (tensors, metadata) if metadata.get("sha256") == _digest(tensors) else None


def keep(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Keep for the next time; an index that cannot be written to still answers."""
    try:
        write_tensors(path, tensors, metadata)
    except (StoreError, ResourceError) as error:
        warnings.warn(f"not kept for the next time: {error}", HeadwaterWarning, stacklevel=2)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """A temporary name to write to; synced and renamed at the end, removed on any error."""
    part = path.with_name(f"{path.name}.{uuid4().hex[:12]}.part")  # others may write it as well
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if full:
            raise ResourceError(
                f"no space left to write {path}: free some and run the same command again; "
                "what was finished is kept"
            ) from None
        raise StoreError(f"cannot write {path}: {error}") from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """The file's sha256, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
