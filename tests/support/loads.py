"""Networks that tests load again and again: read from their files once, and copied.

A test's own model of random weights takes a tenth of a second to load, nearly all of it in the
libraries that build its modules one by one; hundreds of tests load the same few. What is loaded of
files that have not changed since is a copy here, with weights of its own.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

KEPT = 24  # networks, the latest; a pipeline has three or so


class _Pickler(pickle.Pickler):
    """Modules without their tensors, which stand beside them, each once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: dict[int, torch.Tensor] = {}

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, torch.Tensor):
            return None
        self.tensors[id(obj)] = obj
        return id(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, tensors: dict[int, torch.Tensor]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._copies = {number: _copy(tensor) for number, tensor in tensors.items()}

    def persistent_load(self, pid: int) -> torch.Tensor:
        return self._copies[pid]


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Its numbers, as far from a multiple of 64 bytes as they were: products round by that."""
    memory = torch.empty(tensor.nbytes + 64, dtype=torch.uint8)
    start = (tensor.data_ptr() - memory.data_ptr()) % 64
    copied = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    copied.copy_(tensor.detach())
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(copied, tensor.requires_grad)
    return copied


def read_once(load: Callable[..., Any]) -> Callable[..., Any]:
    """The same as `load(kind, folder, **options)`, asked once while the files stay as they are.

    What it refuses it is asked for each time.
    """
    kept: dict[Any, tuple[bytes, dict[int, torch.Tensor]]] = {}

    def read(kind: Any, folder: Path, **options: Any) -> Any:
        key = (kind, folder, tuple(sorted(options.items())), _files(folder))
        if key not in kept:
            pickler = _Pickler(file := io.BytesIO())
            pickler.dump(load(kind, folder, **options))
            kept[key] = file.getvalue(), pickler.tensors
            for oldest in list(kept)[:-KEPT]:
                del kept[oldest]
        return _Unpickler(*kept[key]).load()

    return read


def _files(folder: Path) -> tuple[tuple[Any, ...], ...]:
    """Which files a folder holds; no two that were written are the same, whatever their times."""
    stats = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return tuple((str(path), s.st_ino, s.st_size, s.st_ctime_ns) for path, s in stats)
