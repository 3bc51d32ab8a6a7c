"""How fast an index is read and asked, beside a bare read of its files and a bare product.

An index of random rows is written by the library's own writer and asked through a session, as
questions do: one draw, 64 draws, nine dampings, leverages. Everything is timed in one run, the
median of some rounds, with files in the page cache where memory holds them.

    OMP_NUM_THREADS=2 python benchmarks/scoring.py --rows 200000 --dim 4096
    OMP_NUM_THREADS=2 python benchmarks/scoring.py --rows 1000000 --dim 4096    # 8 GB of disk
    OMP_NUM_THREADS=1 python benchmarks/scoring.py --jobs 2    # workers beside one process
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from headwater import Denoiser, Index, Session, build_index, load_dataset
from headwater.attribution.scores import RULES
from headwater.index.samples import write_samples
from headwater.runtime.executor import Executor
from headwater.storage.shards import ShardRows, finish, write_shard

SHARD, PROBES = 4096, 10
DAMPINGS = tuple(0.1 * 10.0**power for power in range(-4, 5))


def main() -> None:
    command = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("--rows", type=int, default=200_000)
    command.add_argument("--dim", type=int, default=4096)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--jobs", type=int, default=1, help="workers, beside one process")
    command.add_argument("--folder", type=Path, help="for the index; default a temporary one")
    given = command.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        session = Session(written(Path(folder), given.rows, given.dim))
        if given.jobs > 1:
            measure_workers(session.index, given)
        else:
            measure(session, given)


def written(folder: Path, rows: int, dim: int) -> Index:
    """An index of random rows; what is said of it is of a small one."""
    model, few = Denoiser.load("scenes", "cpu"), load_dataset("scenes").first(8)
    how: dict[str, Any] = dict(method="trak", timesteps=1, self_check=False)
    small = build_index(model, few, folder / "small", dim=dim, **how)
    data = {**small.manifest.data, "rows": rows}
    manifest = replace(small.manifest, shard_rows=SHARD, data=data)
    shards = [
        write_shard(folder, manifest, number, random_rows(start, rows, dim))
        for number, start in enumerate(range(0, rows, SHARD))
    ]
    write_samples(folder, [few.samples[0]] * rows, range(rows))
    finish(folder, manifest, shards)
    return Index.open(folder)


def random_rows(start: int, rows: int, dim: int) -> ShardRows:
    """Rows whose spread falls by a hundred over the features."""
    chance = torch.Generator().manual_seed(start)
    count = min(SHARD, rows - start)
    features = torch.randn(count, dim, generator=chance) * torch.logspace(0, -2, dim)
    errors = torch.rand(count, PROBES, generator=chance)
    return ShardRows(features, range(start, start + count), residuals=errors)


def measure(session: Session, given: argparse.Namespace) -> None:
    """Print what everything takes."""
    index, kernel = session.index, session.kernel()
    size = sum(shard.bytes for shard in index.manifest.shards) / 1e9
    block = next(iter(index.blocks())).clone()
    psi = torch.randn(64, given.dim)

    def timed(call: Callable[[], Any]) -> float:
        return median(seconds(call) for _ in range(given.rounds))

    def line(what: str, took: float, beside: str = "") -> None:
        print(f"{what:<44}{took:9.2f} s{size / took:9.2f} GB/s{beside:>16}", flush=True)

    print(f"{given.rows:,} rows of {given.dim:,}: {size:.2f} GB, {torch.get_num_threads()} threads")
    line("first pass, checksums and all", seconds(lambda: kernel.dot(psi[:1])))
    read = timed(lambda: bare_read(session))
    line("bare read of the files", read)
    shards = given.rows / len(block)
    for draws in (1, 64):
        bare = timed(lambda q=draws: block @ psi[:q].T) * shards
        line(f"bare float32 product, {draws} draws", bare)
        took = timed(lambda q=draws: kernel.dot(psi[:q]))
        line(f"dot, {draws} draws", took, f"{max(read, bare) / took:.0%} of bare")
    print(f"\nGram matrix, once{seconds(kernel.gram):37.2f} s")
    matrix = kernel.gram().matrix
    line("a Cholesky factor", seconds(lambda: kernel.gram().factor(0.2)))
    line("an eigendecomposition, for several dampings", seconds(lambda: torch.linalg.eigh(matrix)))
    kernel.inverse(0.1)
    kernel.spectrum()
    for draws in (1, 32):
        before = processor_seconds()
        one = timed(lambda q=draws: kernel.trak(psi[:q], [0.1]))
        spent = (processor_seconds() - before) / given.rounds
        line(f"trak, {draws} draws", one, f"{spent:.2f} s of CPU")
        nine = timed(lambda q=draws: kernel.trak(psi[:q], DAMPINGS))
        line(f"trak, {draws} draws, nine dampings", nine, f"{nine / one:.2f} times one")
    line("das, 32 draws, first", seconds(lambda: RULES["das"].score(kernel, psi[:32], [0.1])))
    das = timed(lambda: RULES["das"].score(kernel, psi[:32], [0.1]))
    line("das, 32 draws, from then on", das, f"{das / one:.2f} times trak")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def measure_workers(index: Index, given: argparse.Namespace) -> None:
    """Print what a Gram matrix and a pass take one process, and workers.

    Processor seconds are those of all processes together: on cores that are free, workers take
    their share of them each, and beside other work nobody knows.
    """
    psi = torch.randn(64, given.dim)
    print(f"{given.rows:,} rows of {given.dim:,}, {torch.get_num_threads()} threads")
    for executor in (Executor(), Executor(jobs=given.jobs)):
        kernel = Session(index, executor).kernel()
        asked = {"Gram matrix": kernel.gram, "dot, 64 draws": partial(kernel.dot, psi)}
        for what, call in asked.items():
            before, took = processor_seconds(), seconds(call)
            spent = processor_seconds() - before
            print(f"{executor}, {what}: {took:.1f} s, {spent:.1f} of processors", flush=True)
        shutil.rmtree(index.path / "kernels")


def processor_seconds() -> float:
    """Of this process, and of those that it began and that have ended."""
    return sum(os.times()[:4])


def bare_read(session: Session) -> None:
    """Every byte of the shards."""
    buffer = bytearray(1 << 24)
    for shard in session.index.manifest.shards:
        with (session.index.path / shard.file).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def seconds(call: Callable[[], Any]) -> float:
    """Of the clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
