"""Faults of workers and of memory: commands and their workers killed, memory that is not there."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from faults_world import FAILED, World, counted, ended, killed, seconds, started

from headwater.runtime.executor import EXECUTORS, Executor

# Powers of two of bytes beyond what the process has. With none at all Python waits for ever for a
# thread that could not begin.
LEAST_ROOM, MOST_ROOM = 17, 22
MOST_TRIES = 10  # to find a worker to kill


def workers(place: Path, count: int) -> Iterator[dict[str, Any]]:
    """An index by two workers, on this machine and on Ray; the command or one of them is killed.

    Without a curvature, for whose passes workers begin anew, a quarter of a minute each. Nothing is
    tried of Ray where it is not installed.
    """
    world = World(place, method="trak")
    folder = world.place / "copy"
    for engine in EXECUTORS:
        if engine == "ray" and find_spec("ray") is None:
            continue
        executor = Executor(engine, 2)

        def work(executor: Executor = executor) -> object:
            return world.build(folder, executor=executor)

        world.put_nothing()
        lasts = seconds(work)
        for whom, kill in {"the command": kill_the_command, "a worker": kill_a_worker}.items():
            found = Counter(one(world, work, lasts, kill) for _ in range(count))
            yield {"fault": f"index by {engine} workers, {whom} killed", **counted(found)}


def one(
    world: World,
    work: Callable[[], object],
    lasts: float,
    kill: Callable[[World, int], str],
) -> str:
    """What the same command makes of what a kill at random left."""
    fate = ""
    for _ in range(MOST_TRIES):
        world.put_nothing()
        process = started(work)
        time.sleep(lasts * world.chance.uniform(0, 1))
        fate = kill(world, process)
        if fate:
            break
    if fate != "killed":
        return "wrong"
    folder, end = world.place / "copy", ended(started(work))
    right = end == 0 and world.is_right(folder, within=2e-3)  # with one thread, as workers have
    return "stuck" if end is None else "mended" if right else "wrong"


def kill_the_command(world: World, process: int) -> str:
    """The command that gave the work, without its workers."""
    killed(process)
    return "killed"


def kill_a_worker(world: World, process: int) -> str:
    """One of the command's workers; "" if there was none yet.

    The command then ends in one line, or well on Ray, which begins workers again.
    """
    found = sorted(below(process) & {*workers_now()})
    if found:
        with suppress(ProcessLookupError):
            os.kill(int(world.chance.choice(found)), signal.SIGKILL)
    right = ended(process) in (0, FAILED)
    return "wrong" if not right else "killed" if found else ""


def workers_now() -> Iterator[int]:
    """Processes that are workers: of a pool, or of Ray."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (place / "cmdline").read_bytes()
            if b"spawn_main" in line or line.startswith((b"ray::_RayWorker", b"ray::IDLE")):
                yield int(place.name)


def below(process: int) -> set[int]:
    """The processes that it began, and those that they began."""
    found, waiting = set(), [process]
    while waiting:
        place = Path(f"/proc/{waiting.pop()}/task")
        for children in place.glob("*/children"):
            with suppress(OSError):
                new = {*map(int, children.read_text().split())} - found
                found |= new
                waiting += new
    return found


def memory(world: World, count: int) -> Iterator[dict[str, Any]]:
    """An index and a question with little memory, which then are given enough."""
    folder = world.place / "copy"
    for name, prepare, work in (
        ("index", world.put_nothing, lambda: world.build(folder)),
        ("concept", world.put_unasked, lambda: world.ask(folder)),
    ):
        found = Counter()
        for _ in range(count):
            prepare()
            room = int(2 ** world.chance.uniform(LEAST_ROOM, MOST_ROOM))
            end = ended(started(limited(work, room)))
            again = ended(started(work))
            right = end in (0, FAILED) and again == 0 and world.is_right(folder, within=2e-3)
            found["stuck" if None in (end, again) else "mended" if right else "wrong"] += 1
            found["refused"] += end == FAILED
        yield {"fault": f"{name}, with little memory", **counted(found)}


def limited(work: Callable[[], object], room: int) -> Callable[[], object]:
    """The same with so many bytes more than the process has."""

    def run() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + room
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        work()

    return run
