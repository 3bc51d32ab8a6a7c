"""How much memory there is, and how much this process has used at its peak."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from headwater.errors import ModelError


def peak_bytes(device: torch.device) -> int | None:
    """The most that was in use so far: on the GPU, or by this process; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def room_bytes(device: torch.device) -> int | None:
    """The most that could be in use: what is in use already and what is free; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    with suppress(OSError, ValueError, StopIteration, IndexError):
        free = _kilobytes(Path("/proc/meminfo"), "MemAvailable:")
        used = _kilobytes(Path("/proc/self/status"), "VmRSS:")
        return min(free + used, _container_limit())
    return None


def kept_bytes(run: Callable[[], object]) -> int:
    """The most that autograd kept for a backward pass at a time while `run` ran, or more."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def _kilobytes(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _container_limit() -> int:
    """What a container may use in all, where it is limited."""
    with suppress(OSError, ValueError):
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    return sys.maxsize


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device of this name; of none, CUDA if there is one, else the CPU.

    Raises:
        ModelError: it cannot compute.
    """
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
        return found
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise ModelError(f"cannot compute on --device {str(device)!r}: {reason}") from None
