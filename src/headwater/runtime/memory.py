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
        return min(free + used, memory_limit())
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


def memory_limit(root: Path = Path("/")) -> int:
    """What this process may use in all, by its memory cgroup and those that it is nested in.

    A limit of any of them holds: of a container, a batch job, a systemd slice, a user.

    Args:
        root: of the file system; tests give a folder.

    Returns:
        Bytes; `sys.maxsize` where nothing is limited, or there are no cgroups.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return sys.maxsize
    limits = [_limit_in(file) for line in lines for file in _limit_files(root, line)]
    return min(limits, default=sys.maxsize)


def _limit_files(root: Path, line: str) -> list[Path]:
    """Where the limits of one line of /proc/self/cgroup stand: of that cgroup and all above it."""
    _, controllers, path = line.split(":", 2)
    if not controllers:  # version 2: "0::/user.slice/job"
        top, name = root / "sys/fs/cgroup", "memory.max"
    elif "memory" in controllers.split(","):  # version 1: "7:memory:/docker/ab12"
        top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
    else:
        return []
    # ".." leads out of what a container can see: then its own top is all there is.
    parts = [] if ".." in path else path.strip("/").split("/")
    return [top.joinpath(*parts[:depth], name) for depth in range(len(parts) + 1)]


def _limit_in(file: Path) -> int:
    with suppress(OSError, ValueError):  # not there, or "max"
        return int(file.read_text())
    return sys.maxsize


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device of this name; of none, CUDA if there is one, else the CPU.

    Raises:
        ModelError: it cannot compute.
    """
    try:
        usable = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=usable)
        return usable
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise ModelError(f"cannot compute on --device {str(device)!r}: {reason}") from None
