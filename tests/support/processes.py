"""Processes that tests begin."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from headwater.cli import main
from headwater.storage import shards
from headwater.storage.lock import locked

# Where `support` lies, for whatever a test begins. Python 3.11 tells a fork server no `sys.path`,
# and what it cannot preload it leaves out without a word: all its processes would import it anew.
TESTS = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))

# Begun by what has imported everything, and done nothing else.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["support.preloaded"])


@dataclass(frozen=True)
class Result:
    """How a command ended (negative: by a signal), and what it wrote."""

    code: int
    out: str
    err: str


def in_a_process(command: Callable[[], object], *args: object, **env: str) -> Result:
    """Run a command line in a process of its own, which has imported what takes seconds.

    Args:
        env: what its environment says besides ours.
    """
    with TemporaryDirectory() as folder:
        files = Path(folder, "out"), Path(folder, "err")
        for file in files:
            file.touch()
        words = ["headwater", *map(str, args)]
        given = (command, words, files, {**os.environ, **env})
        process = PROCESSES.Process(target=_begin, args=given)
        process.start()
        process.join()
        out, err = (file.read_text(encoding="utf-8", errors="replace") for file in files)
        assert process.exitcode is not None
        return Result(process.exitcode, out, err)


def _begin(
    command: Callable[[], object], words: list[str], files: tuple[Path, Path], env: dict[str, str]
) -> None:
    assert "support.preloaded" in sys.modules, "it would take many seconds, and nobody would know"
    sys.argv = words
    os.environ.clear()
    os.environ.update(env)
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY), descriptor)
    torch.set_num_threads(1)
    command()


def killed_at_its_third_shard() -> None:
    """The command line, killed without a chance to tidy up."""
    real, calls = shards.save_file, []

    def save_file(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half a shard")
            os.kill(os.getpid(), signal.SIGKILL)
        real(tensors, path, metadata)

    shards.save_file = save_file
    main.main()


def in_a_terminal_of_windows() -> None:
    """The command line where stdout and stderr hold a few hundred letters."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="cp1252")  # pyright: ignore[reportAttributeAccessIssue]
    main.main()


def holding(folder: Path, held: Event) -> None:
    """Holds the lock of a folder until it is killed."""
    with locked(folder, print):
        held.set()
        time.sleep(600)


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
