"""Faults of the disk: full at every file and at every page that is written, and read-only.

Command lines, on a disk of their own in memory (tmpfs), which holds what they write. It has room
for one file more at each trial, and then for a few pages more, until there is enough. A command
that was refused must then end, with room, as if nothing had been.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count as numbers
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
from faults_world import IMAGES, QUERY, World, counted, ended, is_near, started

from headwater.cli.main import main
from headwater.storage.manifest import read_manifest
from headwater.upkeep.verify import verify

PAGE = os.sysconf("SC_PAGE_SIZE")
# Of the disk, when it has room.
SIZE, FILES = 2**28, 10_000
REFUSED = 2  # how a command line ends that was refused in a line
# What that line says of the mend.
FULL, READ_ONLY = "free some", "make it writable, or name another folder"


class Command(NamedTuple):
    """A command line, what is there before, and whether all is right after it.

    Attributes:
        read_only: what comes of it on a read-only disk: it is refused, or right all the same.
    """

    words: tuple[object, ...]
    prepare: Callable[[], object]
    is_right: Callable[[], bool]
    read_only: str = "refused"


def disks(world: World, count: int) -> Iterator[dict[str, Any]]:
    """Of each command, on a disk that is full, and on one that is read-only.

    Args:
        count: at how many numbers of free pages a command is tried, at most.
    """
    with mounted(world.place / "disk") as disk:
        if disk is None:
            print("no disk may be mounted here, so none was full or read-only", file=sys.stderr)
            return
        for name, command in commands(world, disk).items():
            yield {"fault": f"{name}, no room for a file", **full(disk, command, "nr_inodes", 1)}
            step = max(1, pages_of(disk, command) // count)
            yield {"fault": f"{name}, no room for a page", **full(disk, command, "size", step)}
            yield {"fault": f"{name}, on a read-only disk", **read_only(disk, command)}


def full(disk: Path, command: Command, option: str, step: int) -> dict[str, int]:
    """With more and more room, until it is enough."""
    found = Counter()
    for free in numbers(0, step):
        begin(disk, command)
        limit(disk, option, free)
        code, said = run(command.words)
        with_room(disk)
        found[fate(command, code, said, FULL)] += 1
        found["refused"] += code == REFUSED
        if code == 0 and "no space left" not in said:
            return counted_all(found)
    raise AssertionError("there are always more numbers")


def read_only(disk: Path, command: Command) -> dict[str, int]:
    """Of one that is mounted so; writable again afterwards."""
    begin(disk, command)
    remount(disk, "ro")
    code, said = run(command.words)
    with_room(disk)
    ends = {"refused": REFUSED, "right": 0}
    kind = fate(command, code, said, READ_ONLY) if code == ends[command.read_only] else "wrong"
    return counted_all(Counter({kind: 1, "refused": int(code == REFUSED)}))


def fate(command: Command, code: int | None, said: str, mend: str) -> str:
    """What the same command makes of what one has left that had no room."""
    if code is None:
        return "stuck"
    *_, last = said.splitlines() or [""]
    in_one_line = code == 0 or (last.startswith("headwater: ") and mend in last)
    if code not in (0, REFUSED) or not in_one_line or "Traceback" in said:
        print(f"{' '.join(map(str, command.words))} ended with {code}: {said}", file=sys.stderr)
        return "wrong"
    if code == REFUSED and run(command.words)[0] != 0:
        return "wrong"
    return "wrong" if not is_right(command) else "mended" if code else "unchanged"


def is_right(command: Command) -> bool:
    """Looked at by a process of its own: whatever is open on a disk keeps it as it is mounted."""

    def look() -> None:
        assert command.is_right()

    return ended(started(look)) == 0


def counted_all(found: Counter[str]) -> dict[str, int]:
    """`counted`, where what is unchanged is no part of anything else."""
    numbers = counted(found)
    return numbers | {"times": numbers["times"] + numbers["unchanged"]}


# --- commands -------------------------------------------------------------------------------------


def commands(world: World, disk: Path) -> dict[str, Command]:
    """What is asked, built, mended, made smaller and copied, on a disk."""
    folder, answer, there = disk / "index", disk / "answer", disk / "pushed"
    other, elsewhere = world.build(world.place / "another", seed=7), world.place / "elsewhere"
    build = (
        "index", world.place / "model", "scenes", folder, "--limit", IMAGES, "--no-self-check",
        *(part for name, value in world.recipe.items()
          for part in (f"--{name.replace('_', '-')}", value)),
    )  # fmt: skip
    ask = ("concept", *asked(folder))
    remove = ("remove", folder, "--where", "id contains 1")

    def put(index: Path, *lost: str) -> Callable[[], object]:
        def prepare() -> None:
            shutil.copytree(index, folder)
            for name in lost:
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.write_bytes(b"damaged")

        return prepare

    def whole_again(within: float = 0.0) -> bool:
        return world.is_right(folder, within)

    def is_answered(out: Path) -> bool:
        found, expected = (
            np.array(pq.read_table(each / "star/scores.parquet")["score"])
            for each in (out, elsewhere)
        )  # by a model that is loaded anew each time, and may round otherwise
        return names_in(out) == names_in(elsewhere) and is_near(found, expected, 1e-4)

    whole, unasked = put(world.whole), put(world.whole, "queries")
    hurt = put(world.whole, "index.json", "samples.parquet", "features/00001.safetensors",
               "curvature/moments.safetensors")  # fmt: skip
    run_here((*ask[:1], *asked(world.whole), "--out", elsewhere))
    pushed = world.place / "pushed"
    run_here(("push", world.whole, f"file://{pushed}"))
    return {
        "verify": Command(("verify", folder), whole, whole_again, "right"),
        "remove": Command(remove, whole, lambda: is_smaller(folder, world)),
        "push to it": Command(
            ("push", world.whole, f"file://{there}"), lambda: None,
            lambda: contents(there) == contents(pushed),
        ),
        "repair": Command(("repair", folder), hurt, lambda: whole_again(2e-3)),
        "concept": Command(
            (*ask, "--out", answer), unasked, lambda: whole_again() and is_answered(answer)
        ),
        "concept, to another disk": Command(
            (*ask, "--out", world.place / "answer"), unasked,
            lambda: whole_again() and is_answered(world.place / "answer"), "right",
        ),
        "index": Command(build, lambda: None, whole_again),
        "index of what is whole": Command(build, whole, whole_again, "right"),
        "index --overwrite": Command((*build, "--overwrite"), put(other), whole_again),
    }  # fmt: skip


def asked(folder: Path) -> tuple[object, ...]:
    """`QUERY` of an index as words of a command line."""
    return (folder, QUERY.prompt, "--concept", QUERY.concept, "--draws", QUERY.draws,
            "--context", QUERY.context)  # fmt: skip


def is_smaller(folder: Path, world: World) -> bool:
    """Whether an index lacks the images that were named, and nothing else."""
    ids = [sample.id for sample in world.data.samples]
    gone = {row for row, id in enumerate(ids) if "1" in id}
    return verify(folder) == [] and read_manifest(folder).removed_rows == gone


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, but for what a card says of where it lies."""
    found = {name: (folder / name).read_bytes() for name in names_in(folder)}
    return found | {"README.md": found["README.md"].replace(str(folder).encode(), b"")}


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- the disk -------------------------------------------------------------------------------------


@contextmanager
def mounted(place: Path) -> Iterator[Path | None]:
    """A disk in memory; None where none may be mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},nr_inodes={FILES}", "faults", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def begin(disk: Path, command: Command) -> None:
    """Put there what the command finds."""
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (disk / "filler").write_bytes(bytes(PAGE))  # with a limit of 0 there would be none
    command.prepare()


def limit(disk: Path, option: str, free: int) -> None:
    """Leave room for so many files, or for so many pages, beyond those that are there."""
    now = os.statvfs(disk)
    used = {
        "nr_inodes": now.f_files - now.f_ffree,
        "size": (now.f_blocks - now.f_bfree) * now.f_frsize,
    }
    remount(disk, f"{option}={used[option] + free * (PAGE if option == 'size' else 1)}")


def with_room(disk: Path) -> None:
    remount(disk, f"rw,size={SIZE},nr_inodes={FILES}")


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def pages_of(disk: Path, command: Command) -> int:
    """That a command fills, when it is done."""
    begin(disk, command)
    before = os.statvfs(disk).f_bfree
    code, said = run(command.words)
    assert code == 0 and is_right(command), said
    return before - os.statvfs(disk).f_bfree


# --- command lines --------------------------------------------------------------------------------


def run(words: tuple[object, ...]) -> tuple[int | None, str]:
    """How a command line ends in a process of its own, None where it is stuck; what it says."""
    with tempfile.TemporaryFile() as file:
        process = os.fork()
        if not process:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            try:
                code = run_here(words)
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            os._exit(code)
        code = ended(process)
        file.seek(0)
        return code, file.read().decode()


def run_here(words: tuple[object, ...]) -> int:
    """The same in this process, which has imported then what the next one needs."""
    with mock.patch.object(sys, "argv", ["headwater", *map(str, words)]):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0
