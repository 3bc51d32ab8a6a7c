"""How long does it take to list and fingerprint a large data set, and in how much memory?

Synthetic files of a few bytes, in a folder with a caption beside each, in tar shards and in a CSV
of paths: N images each. In a process of its own for each: CPU seconds (of a file system in memory
or in its cache) and peak memory above what the process held before, at N / 4 and at N, and both
for a million images by extrapolation. Counts
how many folders are scanned and files are opened, of which images must be none. Fails where time a
row grows by more than half from N / 4 to N, or an image was opened. CPU, Linux or macOS.

Then, on Linux, how much of a parquet file of images of a megabyte each is read when it is opened
(sparse: it takes no disk), and what it takes to open the table of samples of a large index.

    python benchmarks/listing.py [--images 100000] [--json]
    python benchmarks/listing.py --images 0 --parquet-images 10000 --index-rows 10000000
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
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.data.training_set import Sample
from headwater.index.samples import read_samples, write_samples
from headwater.storage.files import sha256_of

A_FOLDER, A_SHARD, A_PICTURE = 1_000, 10_000, 1_000_000  # images, images, bytes
BOUND = 1.5
IMAGE, CAPTION = b"no picture, and nobody looks", "a photograph of a cat number {}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--parquet-images", type=int, default=1_000)
    parser.add_argument("--index-rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", type=Path, help="list this in this process, and print JSON")
    parser.add_argument("--open", type=Path, help="the same of a parquet file or an index's folder")
    given = parser.parse_args()
    for look, source in ((listed, given.list), (opened, given.open)):
        if source is not None:
            print(json.dumps(look(source)))
            return 0
    rows = []
    for kind, write in WRITERS.items():
        for count in (given.images // 4, given.images) if given.images else ():
            with tempfile.TemporaryDirectory() as folder:
                source = write(Path(folder), count)
                rows.append({"kind": kind, **in_its_own_process("--list", source)})
                assert rows[-1]["images"] == count
    large = []
    for write, count in ((as_parquet, given.parquet_images), (as_index, given.index_rows)):
        with tempfile.TemporaryDirectory() as folder:
            large.append(in_its_own_process("--open", write(Path(folder), count)))
    if given.json:
        print(json.dumps([*rows, *large]))
    else:
        print_table(rows)
        print(*map(said, large), sep="\n")
    grown = [each_row(b) / each_row(a) for a, b in zip(rows[::2], rows[1::2], strict=True)]
    return int(max(grown, default=0) > BOUND or any(row["pictures opened"] for row in rows))


def each_row(row: dict[str, float]) -> float:
    return row["seconds"] / row["images"]


def said(found: dict[str, Any]) -> str:
    size, read, memory = (f"{found[name]:,.0f} MB" for name in ("of MB", "read MB", "MB"))
    return (
        f"{found['what']} of {found['rows']:,} rows, {size}: opened in {found['seconds']:.2f} s, "
        f"{read} of it looked at, {memory} of memory; a row {found['a row']:.3f} s"
    )


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


class Sparse(io.FileIO):
    """A file in which what is zero takes no place on the disk."""

    def write(self, content: Any) -> int:
        if len(content) >= A_PICTURE and bytes(content) == bytes(len(content)):
            self.seek(len(content), io.SEEK_CUR)
            return len(content)
        return super().write(content)


def as_parquet(folder: Path, count: int) -> Path:
    """Images of a megabyte of zeros each, a hundred in a row group."""
    kinds = pa.schema({"image": pa.binary(), "caption": pa.string()})
    file = folder / "data.parquet"
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    with Sparse(file, "w") as raw, pq.ParquetWriter(raw, kinds, **plain) as writer:
        for first in range(0, count, 100):
            captions = [CAPTION.format(row) for row in range(first, min(first + 100, count))]
            images = [bytes(A_PICTURE)] * len(captions)
            writer.write_table(pa.table({"image": images, "caption": captions}, kinds))
    return file


class Made(Sequence[Sample]):
    """Samples that are made when they are looked at."""

    def __init__(self, count: int) -> None:
        self.rows = range(count)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        row = self.rows[row]
        name = f"{row // A_FOLDER:05d}/{row:09d}.png"
        return Sample(name, CAPTION.format(row), f"data/{name}")


def as_index(folder: Path, count: int) -> Path:
    """The table of samples alone."""
    write_samples(folder, Made(count), range(count))
    return folder


WRITERS = {"folder": as_folder, "tars": as_tars, "table": as_table}


# --- in a process of its own ----------------------------------------------------------------------


def in_its_own_process(how: str, source: Path) -> dict:
    command = [sys.executable, __file__, how, str(source)]
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


def opened(source: Path) -> dict[str, Any]:
    """What of a file that is mapped into memory was looked at is told by the system."""
    import psutil

    from headwater.data.sources import load_dataset

    process, parquet = psutil.Process(), source.is_file()
    file = source if parquet else source / "samples.parquet"
    digest = "" if parquet else sha256_of(file)  # which brings it into the page cache
    before, start = process.memory_info(), time.perf_counter()
    if parquet:
        samples = load_dataset(source).samples
    else:
        rows = pq.ParquetFile(file).metadata.num_rows
        facts = SimpleNamespace(samples_sha256=digest, rows=rows)
        samples = read_samples(source, cast(Any, facts), frozenset()).samples
    seconds, after = time.perf_counter() - start, process.memory_info()
    start = time.perf_counter()
    assert samples[len(samples) // 2].caption == CAPTION.format(len(samples) // 2)
    size = file.stat().st_size
    return {
        "what": "a parquet file" if parquet else "an index's samples",
        "rows": len(samples),
        "of MB": size / 1e6,
        "seconds": seconds,
        "a row": time.perf_counter() - start,
        "read MB": (after.shared - before.shared if parquet else size) / 1e6,
        "MB": (after.rss - before.rss) / 1e6,
    }


if __name__ == "__main__":
    sys.exit(main())
