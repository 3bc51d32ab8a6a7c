"""How does an index of many small JPEGs begin, and does its memory grow?

Writes N JPEGs of 64 pixels, each another (noise in its colours), with a caption beside each, and
lets `headwater index` work on them as a command, in a process of its own: seconds until the first
rows are on the disk, and the memory that it holds, all its processes together, as rows come.
It is ended after so many seconds, or when it is done. Linux.

    OMP_NUM_THREADS=1 python benchmarks/large_build.py [--images 100000] [--seconds 600]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

from headwater.evaluation.reporting.results import circumstances

A_FOLDER, SIDE = 1_000, 64
LINES = 8  # of the table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="after which it is ended")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data, index = Path(place, "data"), Path(place, "index")
        write(data, given.images)
        how = ["--method", "trak", "--timesteps", "1", "--dim", "1024"]
        command = ["index", "scenes", str(data), str(index), *how]
        seen = list(watched(command, index, given.seconds))
    first, least = next((second, rows) for second, rows, _ in seen if rows)
    print(f"{given.images:,} JPEGs: the first {least:,} rows after {first:.1f} s")
    for second, rows, _ in seen:
        if rows > least:  # what comes before the first row is what is left of the first wait
            print(f"as many again {second - first:.1f} s later")
            break
    print(f"{'seconds':>10}{'rows':>12}{'MB':>10}")
    step = max(1, len(seen) // LINES)
    for second, rows, held in [*seen[::step], seen[-1]]:
        print(f"{second:>10.0f}{rows:>12,}{held / 1e6:>10.0f}")
    print(circumstances()["machine"])


def write(folder: Path, images: int) -> None:
    """As a person's folder of pictures would lie there."""
    chance = np.random.default_rng(0)
    for row in range(images):
        own = folder / f"{row // A_FOLDER:04}"
        own.mkdir(parents=True, exist_ok=True)
        colours = chance.integers(0, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(colours).resize((SIDE, SIDE))
        picture.save(own / f"{row:07}.jpg")
        (own / f"{row:07}.txt").write_text(f"a picture of chance, number {row % 97}")


def watched(command: list[str], index: Path, most: float) -> Iterator[tuple[float, int, int]]:
    """(seconds since its begin, rows on the disk, bytes of memory), every second."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as said:  # a pipe that nobody reads would fill up
        building = subprocess.Popen([sys.executable, "-m", "headwater", *command], stderr=said)
        try:
            while building.poll() is None and (second := time.monotonic() - begun) < most:
                yield second, rows_in(index), memory_of(building.pid)
                time.sleep(1)
        finally:
            building.terminate()
            building.wait()
        if not rows_in(index):
            said.seek(0)
            sys.exit(said.read().decode())


def rows_in(index: Path) -> int:
    """Of the shards that are finished."""
    return sum(map(rows_of, (index / "features").glob("*.safetensors")))


@cache
def rows_of(shard: Path) -> int:
    """How many it has."""
    with safe_open(shard, "np") as file:
        return file.get_slice("features").get_shape()[0]


def memory_of(pid: int) -> int:
    """What a process and those that it began hold."""
    own = Path("/proc", str(pid))
    try:
        pages = int((own / "statm").read_text().split()[1])
        children = (own / "task" / str(pid) / "children").read_text().split()
    except OSError:  # it has just ended
        return 0
    return 4096 * pages + sum(memory_of(int(child)) for child in children)


if __name__ == "__main__":
    main()
