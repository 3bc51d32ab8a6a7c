"""Work for executors. Other processes import it, which they cannot where a test file lies."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import torch

from headwater.errors import QueryError
from headwater.runtime.executor import Executor, workers_beside


def squares(folder: Path | None = None):
    """Counts how often it is called, in files."""
    if folder is not None:
        (folder / f"started-{os.getpid()}").touch(exist_ok=False)
    return square


def square(item: int) -> tuple[int, int, int, str]:
    return item * item, os.getpid(), torch.get_num_threads(), str(Path.cwd())


def refusing(folder: Path):
    return partial(refuse, folder)


def refuse(folder: Path, item: int) -> int:
    """Items 0 and 1 begin together; then 1 is refused."""
    (folder / f"begun-{item}").touch()
    while not (folder / f"begun-{0 if item == 1 else 1}").exists():
        time.sleep(0.01)
    if item == 1:
        raise QueryError("one is none")
    time.sleep(0.5)
    (folder / f"ended-{item}").touch()
    return item


def dying(folder: Path, times: dict[int, int]):
    return partial(die, folder, times)


def die(folder: Path, times: dict[int, int], item: int) -> int:
    """These items kill their worker so many times."""
    deaths = folder / f"deaths-{item}"
    if item in times and (not deaths.exists() or deaths.stat().st_size < times[item]):
        with deaths.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def shares(executor: Executor):
    return partial(share, executor)


def share(executor: Executor, device: str) -> int:
    return workers_beside(executor, device)
