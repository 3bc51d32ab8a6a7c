"""Which of several processes this is, as `torchrun` and `accelerate launch` say it."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from headwater.errors import ParameterError


class Rank(NamedTuple):
    """A process among those that a launcher has started.

    Attributes:
        number: among all, from 0.
        local: among those of this machine.
        count: of all.
    """

    number: int = 0
    local: int = 0
    count: int = 1


def own_rank() -> Rank:
    """Of this process, by the environment; the only one where no launcher has started it.

    Raises:
        ParameterError: the environment says what is no rank.
    """
    said = [os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")]
    if None in said:
        return Rank()
    try:
        return Rank(*map(int, filter(None, said)))
    except (ValueError, TypeError):
        raise ParameterError(
            f"RANK, LOCAL_RANK, WORLD_SIZE = {', '.join(map(repr, said))} are no ranks: unset "
            "them, or start with torchrun"
        ) from None


def own_device(rank: Rank, device: str | None) -> str | None:
    """The device of a process: a GPU of its own, if it was not told a certain one."""
    several = rank.count > 1 and device in (None, "cuda") and torch.cuda.is_available()
    return f"cuda:{rank.local % torch.cuda.device_count()}" if several else device
