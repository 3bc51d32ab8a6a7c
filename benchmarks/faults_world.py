"""A small index that nothing happened to, and processes that end as they are told."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headwater import Concept, Denoiser, Index, Session, build_index, build_shard, load_dataset
from headwater.errors import HeadwaterError, MismatchError
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.models import save_pipeline
from headwater.evaluation.retraining.networks import new_pipeline
from headwater.runtime.batch_size import out_of_memory
from headwater.upkeep.verify import verify

IMAGES, SHARD_ROWS = 20, 8
# With a batch size that is given, since rows of other batches may round otherwise.
RECIPE: dict[str, Any] = {
    "method": "ekfac", "timesteps": 1, "dim": 64, "parameters": "attn2-kv", "batch_size": 8,
}  # fmt: skip
QUERY = Concept("a red star", "star", draws=1, context="prompt")
# How a process ends that was refused, and one that ended in another line that says what to mend.
REFUSED, FAILED = 3, 4
LONGEST = 240  # seconds; one that takes longer is stuck


class World:
    """A model, images, and an index of them that nothing happened to."""

    def __init__(self, place: Path, **changes: Any) -> None:
        self.place, self.chance = place, np.random.default_rng(0)
        self.recipe = RECIPE | changes
        config = ModelConfig(
            (Phase(1),), network={"block_out_channels": (16, 16, 16)}, text_encoder=None
        )
        save_pipeline(new_pipeline(config, 0), place / "model")
        self.model, self.data = Denoiser.load(place / "model", "cpu"), load_dataset("scenes")
        self.data = self.data.first(IMAGES)
        self.whole = self.build(place / "whole")
        self.ask(self.whole)
        self.rows, self.scores = rows_of(self.whole), self.ask(self.whole)

    def build(self, folder: Path, **changes: Any) -> Path:
        """An index."""
        kept = {"encodings": self.place / "encodings", "self_check": False}
        return build_index(self.model, self.data, folder, **(self.recipe | kept | changes)).path

    def build_part(self, folder: Path, part: tuple[int, int]) -> None:
        """A part of it, as an array job does."""
        kept = {"encodings": self.place / "encodings", "self_check": False}
        build_shard(self.model, self.data, folder, part, **(self.recipe | kept))

    def ask(self, folder: Path) -> np.ndarray:
        """Scores of the question."""
        return Session(Index.open(folder, self.model, self.data)).attribute(QUERY).scores

    def put_unasked(self) -> None:
        """The whole index, of which nothing was asked yet."""
        shutil.rmtree(self.copy() / "queries")

    def put_nothing(self) -> None:
        """No index."""
        shutil.rmtree(self.place / "copy", ignore_errors=True)

    def copy(self) -> Path:
        """The whole index, to do something to."""
        folder = self.place / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(self.whole, folder))

    def is_right(self, folder: Path, within: float = 0.0) -> bool:
        """Whether rows and answer are what they were, and nothing else lies there.

        Args:
            within: of the largest number: what is computed in a batch of another size may round
                otherwise, before it is stored in float16.
        """
        left = {path.suffix for path in folder.rglob("*") if path.is_file()}
        return (
            verify(folder) == []
            and is_near(rows_of(folder).numpy(), self.rows.numpy(), within)
            and is_near(self.ask(folder), self.scores, within)
            and left == {".json", ".parquet", ".safetensors"}
            and not list(folder.glob("features/*.json"))
        )


def counted(found: Counter[str]) -> dict[str, int]:
    """How often each end was found, and of how many times; what is refused may be mended then."""
    names = ("mended", "refused", "unchanged", "wrong", "stuck")
    times = found["mended"] + found["wrong"] + found["stuck"]
    return {"times": times, **{name: found[name] for name in names}}


def is_near(found: np.ndarray, expected: np.ndarray, within: float) -> bool:
    return bool(np.abs(found - expected).max() <= within * np.abs(expected).max())


def rows_of(folder: Path) -> torch.Tensor:
    """All that is stored."""
    return torch.cat(list(Index.open(folder).blocks()))


# --- processes ------------------------------------------------------------------------------------


def started(work: Callable[[], object]) -> int:
    """A process that does it. It ends with 0, `REFUSED` or `FAILED`; with 1 after a traceback."""
    process = os.fork()
    if process:
        return process
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        work()
        os._exit(0)
    except MismatchError:
        os._exit(REFUSED)
    except HeadwaterError:
        os._exit(FAILED)
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):  # the command line says it
            os._exit(FAILED)
        raise
    finally:
        os._exit(1)


def ended(process: int) -> int | None:
    """How it ended; None if it had to be killed because it would not."""
    for _ in range(100 * LONGEST):
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    killed(process)
    return None


def killed(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def seconds(work: Callable[[], object]) -> float:
    """That a process takes for it."""
    start = time.perf_counter()
    assert ended(started(work)) == 0
    return time.perf_counter() - start


def dying(work: Callable[[], object], change: int) -> Callable[[], object]:
    """The same, but killed just before the disk is changed for the so-manieth time."""

    def stop(real: Callable[..., object]) -> Callable[..., object]:
        def called(*args: Any, **options: Any) -> object:
            nonlocal change
            change -= 1
            if change < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return called

    def run() -> None:
        for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree"), (os, "fsync")):
            setattr(owner, name, stop(getattr(owner, name)))
        work()

    return run
