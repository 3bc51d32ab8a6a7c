"""How long does it take to list and fingerprint a large data set, and in how much memory?

Synthetic files of a few bytes, in a folder with a caption beside each, in tar shards and in a CSV
of paths: N images each. In a process of its own for each: CPU seconds (of a file system in memory
or in its cache) and peak memory above what the process held before, at N / 4 and at N, and both
for a million images by extrapolation. Counts
how many folders are scanned and files are opened, of which images must be none. Fails where time a
row grows by more than half from N / 4 to N, or an image was opened. CPU, Linux or macOS.

    python benchmarks/listing.py [--images 100000] [--json]
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

A_FOLDER, A_SHARD = 1_000, 10_000  # images
BOUND = 1.5
IMAGE, CAPTION = b"no picture, and nobody looks", "a photograph of a cat number {}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", type=Path, help="list this in this process, and print JSON")
    given = parser.parse_args()
    if given.list is not None:
        print(json.dumps(listed(given.list)))
        return 0
    rows = []
    for kind, write in WRITERS.items():
        for count in (given.images // 4, given.images):
            with tempfile.TemporaryDirectory() as folder:
                rows.append({"kind": kind, **in_its_own_process(write(Path(folder), count))})
                assert rows[-1]["images"] == count
    if given.json:
        print(json.dumps(rows))
    else:
        print_table(rows)
    grown = [each_row(b) / each_row(a) for a, b in zip(rows[::2], rows[1::2], strict=True)]
    return int(max(grown) > BOUND or any(row["pictures opened"] for row in rows))


def each_row(row: dict[str, float]) -> float:
    return row["seconds"] / row["images"]


def print_table(rows: list[dict]) -> None:
    titles = ("images", "seconds", "MB", "folders", "opened", "pictures", "s per 1M", "MB per 1M")
    print(f"{'':<8}" + "".join(f"{title:>11}" for title in titles))
    for row in rows:
        million = 1e6 / row["images"]
        cells = [f"{row['images']:,}", f"{row['seconds']:.1f}", f"{row['MB']:.0f}"]
        cells += [f"{row[name]:,}" for name in ("folders", "opened", "pictures opened")]
        cells += [f"{row['seconds'] * million:.0f}", f"{row['MB'] * million:,.0f}"]
        print(f"{row['kind']:<8}" + "".join(f"{cell:>11}" for cell in cells))


# --- what is listed -------------------------------------------------------------------------------


def as_folder(folder: Path, count: int) -> Path:
    for number in range(count):
        at = folder / f"{number // A_FOLDER:05d}"
        if number % A_FOLDER == 0:
            at.mkdir()
        (at / f"{number:09d}.png").write_bytes(IMAGE)
        (at / f"{number:09d}.txt").write_text(CAPTION.format(number))
    return folder


def as_tars(folder: Path, count: int) -> Path:
    for first in range(0, count, A_SHARD):
        with tarfile.open(folder / f"{first // A_SHARD:05d}.tar", "w") as tar:
            for number in range(first, min(first + A_SHARD, count)):
                for end, content in (("png", IMAGE), ("txt", CAPTION.format(number).encode())):
                    info = tarfile.TarInfo(f"{number:09d}.{end}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


def as_table(folder: Path, count: int) -> Path:
    with (folder / "data.csv").open("w") as table:
        table.write("path,caption\n")
        for number in range(count):
            name = f"{number:09d}.png"
            (folder / name).write_bytes(IMAGE)
            table.write(f"{name},{CAPTION.format(number)}\n")
    return folder / "data.csv"


WRITERS = {"folder": as_folder, "tars": as_tars, "table": as_table}


# --- in a process of its own ----------------------------------------------------------------------


def in_its_own_process(source: Path) -> dict:
    command = [sys.executable, __file__, "--list", str(source)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def listed(source: Path) -> dict:
    """Counted by the events that Python raises where folders and files are opened."""
    import torch

    from headwater.data.sources import load_dataset
    from headwater.runtime.memory import peak_bytes

    warnings.simplefilter("ignore")
    calls: Counter[str] = Counter()
    below = str(source if source.is_dir() else source.parent)

    def count(event: str, given: tuple) -> None:
        if event in ("os.scandir", "os.listdir") and str(given[0]).startswith(below):
            calls["folders"] += 1
        elif event == "open" and isinstance(given[0], str) and given[0].startswith(below):
            calls["opened"] += 1
            calls["pictures opened"] += given[0].endswith(".png")

    sys.addaudithook(count)
    cpu = torch.device("cpu")
    before, start = peak_bytes(cpu), time.process_time()
    data = load_dataset(source)
    seconds, after = time.process_time() - start, peak_bytes(cpu)
    assert before is not None and after is not None, "this system does not tell"
    return {
        "images": len(data),
        "seconds": seconds,
        "MB": (after - before) / 1e6,
        "folders": calls["folders"],
        "opened": calls["opened"],
        "pictures opened": calls["pictures opened"],
    }


if __name__ == "__main__":
    sys.exit(main())
