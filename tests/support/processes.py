"""Processes that a test left behind."""

import os
import signal
import time
from functools import partial
from pathlib import Path


def orphans(folder: Path):
    return partial(outlive, folder)


def outlive(folder: Path, item: int) -> None:
    """Kills the parent, and works on."""
    if item == 0:
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
    (folder / f"{item}").touch()
