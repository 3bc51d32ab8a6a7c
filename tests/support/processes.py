"""Processes that tests begin."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from headwater.runtime.processes import beginning


@dataclass(frozen=True)
class Result:
    """How a command ended (negative: by a signal), and what it wrote."""

    code: int
    out: str
    err: str


def in_a_process(main: Callable[[], object], *args: object) -> Result:
    """Run a command line in a process of its own, which has imported what takes seconds."""
    with TemporaryDirectory() as folder:
        files = Path(folder, "out"), Path(folder, "err")
        words = ["headwater", *map(str, args)]
        process = beginning("cpu").Process(target=_begin, args=(main, words, files))
        process.start()
        process.join()
        out, err = (file.read_text(encoding="utf-8") for file in files)
        assert process.exitcode is not None
        return Result(process.exitcode, out, err)


def _begin(main: Callable[[], object], words: list[str], files: tuple[Path, Path]) -> None:
    sys.argv = words
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), descriptor)
    torch.set_num_threads(1)
    main()


def orphans(folder: Path):
    return partial(outlive, folder)


def outlive(folder: Path, item: int) -> None:
    """Kills whom it works for, and works on."""
    if item == 0:
        parent = multiprocessing.parent_process()
        assert parent is not None and parent.pid is not None
        os.kill(parent.pid, signal.SIGKILL)
    time.sleep(600)
    (folder / f"{item}").touch()
