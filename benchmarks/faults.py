"""Faults on purpose: processes killed, files damaged, two writers. Is a number ever wrong?

    python benchmarks/faults.py [--kills 60] [--damages 1200] [--only disks]

A small index (20 images, three shards, EK-FAC, so that there is a curvature too) is built, built
over, and asked, by processes that are killed at random moments and at every change of the disk
(a rename, a removal, a sync); the same command must then end with the same rows and the same
answer, and leave nothing behind. Two build in one folder at once: the same index, which they share
or are array jobs of, and another one; one of them is killed. Then bits are flipped in every file,
every digit of `index.json` among them, files are cut and exchanged: what is read is right or
refused by name, and after `headwater repair` it is right. An index is also built by workers, of
this machine and of Ray, of which one is killed, or the command that gave them their work; and both
are done with little memory, and then with enough. Command lines write to disks that are full, at
every file and at many pages, or read-only, and are given room then (`faults_disk.py`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults_disk import disks
from faults_workers import memory, workers
from faults_world import (
    REFUSED,
    SHARD_ROWS,
    World,
    counted,
    dying,
    ended,
    killed,
    rows_of,
    seconds,
    started,
)

from headwater.errors import StoreError
from headwater.evaluation.reporting.results import circumstances, markdown
from headwater.index.building import begin
from headwater.storage.files import remove_parts
from headwater.upkeep.repair import repair


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=60, help="at random, of each command")
    parser.add_argument("--damages", type=int, default=1200, help="of files, besides digits")
    kinds: dict[str, Callable[[World], Iterator[dict[str, Any]]]] = {
        "writers": lambda world: writers(world, given.kills),
        "kills": lambda world: kills(world, given.kills),
        "workers": lambda world: workers(world.place / "workers", max(1, given.kills // 15)),
        "memory": lambda world: memory(world, given.kills),
        "disks": lambda world: disks(world, max(1, given.kills // 3)),
        "damages": lambda world: damages(world, given.damages),
    }
    parser.add_argument("--only", nargs="+", choices=kinds, default=list(kinds))
    given = parser.parse_args()
    torch.set_num_threads(1)
    begin.default_shard_rows = lambda rows: SHARD_ROWS  # a shard of 64 takes longer, that is all
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        rows = []
        for kind in given.only:
            for row in kinds[kind](world):
                print(row, file=sys.stderr, flush=True)  # it takes long
                rows.append(row)
    print(markdown(rows), circumstances()["machine"], sep="\n")


# --- kills ----------------------------------------------------------------------------------------


def kills(world: World, count: int) -> Iterator[dict[str, Any]]:
    """Of each command, at random moments and at every change of the disk."""
    for name, (prepare, work) in commands(world).items():
        prepare()
        lasts = seconds(work)
        random, at_changes = Counter(), Counter()
        for _ in range(count):
            prepare()
            process = started(work)
            time.sleep(lasts * world.chance.uniform(0, 1.1))
            killed(process)
            random[gone_on(world, work)] += 1
        for change in range(10_000):
            prepare()
            if ended(started(dying(work, change))) == 0:
                break
            at_changes[gone_on(world, work)] += 1
        yield {"fault": f"{name}, killed at random", **counted(random)}
        yield {"fault": f"{name}, killed at every change of the disk", **counted(at_changes)}


def commands(world: World) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """What is there at the beginning, and what is done then."""
    folder, other = world.place / "copy", world.place / "other"
    world.build(other, seed=7)

    def put_other() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(other, folder)

    return {
        "index": (world.put_nothing, lambda: world.build(folder)),
        "index --overwrite": (put_other, lambda: world.build(folder, overwrite=True)),
        "concept": (world.put_unasked, lambda: world.ask(folder)),
    }


def gone_on(world: World, work: Callable[[], object]) -> str:
    """What the same command makes of what a kill left."""
    end = ended(started(work))
    if end is None:
        return "stuck"
    folder = world.place / "copy"
    remove_parts(folder / "queries", older_than=0)  # goes after a day
    return "mended" if end == 0 and world.is_right(folder) else "wrong"


# --- two writers ----------------------------------------------------------------------------------


def writers(world: World, count: int) -> Iterator[dict[str, Any]]:
    """Two at once in a folder; every other time the first is killed at random."""
    folder = world.place / "copy"
    for name, changes in {
        "the same index": {},
        "another index": {"seed": 7},
        "another index, --overwrite": {"seed": 7, "overwrite": True},
    }.items():
        found = Counter()
        for number in range(count // 3):
            shutil.rmtree(folder, ignore_errors=True)
            first = started(lambda: world.build(folder))
            while not (folder / "index.json").exists():
                time.sleep(0.001)
            second = started(lambda changes=changes: world.build(folder, **changes))
            if number % 2 and not changes:
                time.sleep(world.chance.uniform(0, 1))
                killed(first)
            elif ended(first) != 0:
                found["wrong"] += 1
                continue
            end = ended(second)
            expected = REFUSED if changes else 0
            right = end == expected and world.is_right(folder)
            found["stuck" if end is None else "mended" if right else "wrong"] += 1
        yield {"fault": f"a second writer, of {name}", **counted(found)}
    yield {"fault": "two array jobs, one killed", **counted(array_jobs(world, count // 3))}


def array_jobs(world: World, count: int) -> Counter[str]:
    """Two parts at once; one is killed at random, and begun again when the other is done."""
    folder, found = world.place / "copy", Counter()
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        dies, lives = (number % 2, 2), (1 - number % 2, 2)
        first = started(lambda part=dies: world.build_part(folder, part))
        second = started(lambda part=lives: world.build_part(folder, part))
        time.sleep(world.chance.uniform(0, 2))
        killed(first)
        ends = [ended(second), ended(started(lambda part=dies: world.build_part(folder, part)))]
        right = ends == [0, 0] and world.is_right(folder)
        found["stuck" if None in ends else "mended" if right else "wrong"] += 1
    return found


# --- damage ---------------------------------------------------------------------------------------


def damages(world: World, count: int) -> Iterator[dict[str, Any]]:
    """Of every file."""
    folder = world.copy()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in files}
    manifest = folder / "index.json"
    digits = [n for n, byte in enumerate(contents[manifest]) if chr(byte).isdigit()]
    chosen = [(manifest, flipped(contents[manifest], place, 1)) for place in digits]
    yield {"fault": "a digit of index.json", **damaged(world, contents, chosen)}
    per_file = -(-count // (3 * len(files)))

    def below(end: int) -> int:
        return int(world.chance.integers(end))

    kinds: dict[str, Callable[[Path], bytes]] = {
        "a bit flipped": lambda path: flipped(
            contents[path], below(len(contents[path])), 1 << below(8)
        ),
        "a file cut": lambda path: contents[path][: below(len(contents[path]))],
        "a file in another's place": lambda path: contents[
            files[(files.index(path) + 1 + below(len(files) - 1)) % len(files)]
        ],
    }  # fmt: skip
    for name, kind in kinds.items():
        chosen = [(path, kind(path)) for path in files for _ in range(per_file)]
        yield {"fault": name, **damaged(world, contents, chosen)}


def flipped(data: bytes, place: int, mask: int) -> bytes:
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def damaged(
    world: World, contents: dict[Path, bytes], chosen: list[tuple[Path, bytes]]
) -> dict[str, int]:
    """What is read of it, and, now and then, what `repair` makes of it."""
    found, folder = Counter(), world.place / "copy"
    for number, (path, data) in enumerate(chosen):
        path.write_bytes(data)
        try:
            same = torch.equal(rows_of(folder), world.rows)
            same = same and np.array_equal(world.ask(folder), world.scores)
            found["unchanged" if same else "wrong"] += 1
        except StoreError as error:
            named = path.name in str(error) or "curvature" in str(error)
            found["refused" if named and "\n" not in str(error) else "wrong"] += 1
        if number % 10 == 0:
            path.write_bytes(data)  # a cache was written anew by the question
            repair(folder)
            found["mended" if world.is_right(folder, within=2e-3) else "wrong"] += 1
        for each, whole in contents.items():
            each.write_bytes(whole)
    return counted(found) | {"times": len(chosen)}


if __name__ == "__main__":
    main()
