"""Can the highest scores of an index be found without reading all of its rows?

By the rule `trak` a score is an inner product of whitened rows, psi^T K^-1 phi = (L^-1 psi) (L^-1
phi), so that the highest are what nearest-neighbour indexes look for. faiss's are asked for them
here, on one thread:

- graphs and cells (HNSW, IVF) read whole rows, but few of them;
- codes of a row are read for all, in its place: 8, 4, 2 or 1 bits a feature (SQ, RaBitQ), or fewer
  features, the first principal ones or random ones. Rows whose codes score highest are then read
  whole, so that what is found has its exact score. How many must be read decides.

Real rows are gradients of the scenes by the bundled model's `attn2`, each of one noising at one
timestep, ten of a picture; as they are, at unit norm, and their means over ten, which is what an
index holds. Asked are held-out pictures, and concepts of their captions. Only where rows are many
more than features does it look as in a large index, so that features are few here: further
random sums of those that the gradients were projected to.

Millions of rows are normal ones, which real ones turn out to be like. What is printed of them: how
many must be read by the normal law, for any number of rows, and times and recall of so many rows
of so many features, 1 bit of each in memory, the rows in a file that was just written.

    pip install --no-deps faiss-cpu==1.15.1
    export OMP_NUM_THREADS=1
    python benchmarks/approximate.py [--pictures 2000] [--rows 1000000] [--dim 1024] [--folder KEPT]
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from real_rows import DIM, gradients
from torch import Tensor
from torch.nn.functional import normalize

from headwater.attribution.kernel import kernel_of
from headwater.evaluation.reporting.results import circumstances, markdown

faiss: Any = import_module("faiss")

DAMPING = 0.1
TOPS, RECALL = (10, 100), 0.99
PART = 50_000  # normal rows at a time


class Asked(NamedTuple):
    """Whitened rows [n, k], and whitened questions [q, k]: scores are their inner products."""

    rows: Tensor
    questions: Tensor

    @property
    def scores(self) -> Tensor:
        """[q, n]."""
        return self.questions @ self.rows.T


# --- real rows ----------------------------------------------------------------------------------


def folded(rows: Tensor, dim: int) -> Tensor:
    """Sums of features with random signs, `dim` of them: a count-sketch of fewer features."""
    chance = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (DIM,), generator=chance) * 2.0 - 1
    places = torch.randperm(DIM, generator=chance)
    return (rows * signs)[:, places].unflatten(1, (-1, dim)).sum(1)


def whitened(rows: Tensor, questions: Tensor, dim: int) -> Asked:
    """Both by L^-1, L L^T the kernel of the rows."""
    rows, questions = folded(rows, dim), folded(questions, dim)
    inverse = kernel_of(lambda: rows.split(4096), len(rows), dim).inverse(DAMPING)
    return Asked(inverse.half(rows.T).T.contiguous(), inverse.half(questions.T).T.contiguous())


def real(count: int, folder: Path) -> Iterator[tuple[str, Asked]]:
    """Kinds of rows and questions, by name."""
    own = gradients(count, folder)
    rows, asked, words = own["rows"], own["pictures"], own["concepts"]
    one, unit = rows.flatten(0, 1), normalize(rows, dim=2).flatten(0, 1)
    held_out, held_out_unit = asked.mean(1), normalize(asked, dim=2).mean(1)
    yield "one probe, held-out pictures", whitened(one, held_out, 256)
    yield "one probe at unit norm, held-out pictures", whitened(unit, held_out_unit, 256)
    yield "one probe at unit norm, concepts", whitened(unit, words, 256)
    yield "mean of ten probes, held-out pictures", whitened(rows.mean(1), held_out, 64)
    yield "mean of ten probes, concepts", whitened(rows.mean(1), words, 64)


# --- how much must be read ----------------------------------------------------------------------


def needed(found: Tensor, scores: Tensor, top: int, recall: float = RECALL) -> float:
    """Which share of rows, the highest by `found`, has so much of the highest by `scores`."""
    places = found.argsort(1, descending=True).argsort(1)
    own = places.gather(1, scores.topk(top).indices).flatten().sort().values
    return (int(own[math.ceil(recall * len(own)) - 1]) + 1) / scores.shape[1]


def filled(asked: Asked, name: str) -> Any:
    """One of faiss's indexes, by its name there, of all rows."""
    index = faiss.index_factory(asked.rows.shape[1], name, faiss.METRIC_INNER_PRODUCT)
    index.train(asked.rows.numpy())
    index.add(asked.rows.numpy())
    return index


def coded(asked: Asked, name: str) -> tuple[float, Tensor]:
    """Bytes of a row's code, and what the codes score, [q, n]; features are rotated first."""
    index = filled(asked, f"RR{asked.rows.shape[1]},{name}" if "," not in name else name)
    found = index.search(asked.questions.numpy(), len(asked.rows))
    scores, places = map(torch.from_numpy, found)
    return index.sa_code_size(), torch.empty_like(scores).scatter_(1, places, scores)


def by_codes(asked: Asked, name: str, top: int) -> tuple[float, float]:
    """Shares: of rows that are read whole, and of all bytes that are read."""
    size, found = coded(asked, name)
    share = needed(found, asked.scores, top)
    return share, size / whole(asked) + share


def by_two_codes(asked: Asked, first: str, second: str, top: int) -> tuple[float, float]:
    """The same where codes of more bits are read of the rows that the first ones leave."""
    recall = math.sqrt(RECALL)
    (size, coarse), (more, fine) = coded(asked, first), coded(asked, second)
    left, share = (needed(found, asked.scores, top, recall) for found in (coarse, fine))
    return share, (size + left * more) / whole(asked) + share


def by_search(asked: Asked, name: str, effort: str, top: int) -> tuple[float, float]:
    """The same of a search that reads whole rows, with the least effort that is enough.

    All rows must be read where none is.
    """
    index, questions = filled(asked, name), asked.questions.numpy()
    best, knobs = asked.scores.topk(top).indices, faiss.ParameterSpace()
    counted = faiss.cvar.hnsw_stats if "HNSW" in name else faiss.cvar.indexIVF_stats
    for step in range(3, 15):
        knobs.set_index_parameter(index, effort, 2**step)
        counted.reset()
        found = torch.from_numpy(index.search(questions, top)[1])
        if (found[:, :, None] == best[:, None]).any(1).float().mean() >= RECALL:
            share = counted.ndis / asked.scores.numel()
            return share, share
    return 1.0, 1.0


def whole(asked: Asked) -> float:
    """Bytes of a row as an index has it, in float16."""
    return 2 * asked.rows.shape[1]


Measure = Callable[[Asked, int], tuple[float, float]]
SCHEMES: dict[str, Measure] = {
    "HNSW, 32 links": lambda asked, top: by_search(asked, "HNSW32", "efSearch", top),
    "IVF, 128 cells": lambda asked, top: by_search(asked, "IVF128,Flat", "nprobe", top),
    "8 bits a feature": lambda asked, top: by_codes(asked, "SQ8", top),
    "4 bits a feature": lambda asked, top: by_codes(asked, "SQ4", top),
    "2 bits a feature": lambda asked, top: by_codes(asked, "RaBitQ2", top),
    "1 bit a feature": lambda asked, top: by_codes(asked, "RaBitQ", top),
    "... then 4 bits of some": lambda asked, top: by_two_codes(asked, "RaBitQ", "SQ4", top),
    "a quarter, principal": lambda asked, top: by_codes(asked, f"PCA{quarter(asked)},SQ8", top),
    "a quarter, random": lambda asked, top: by_codes(asked, f"RR{quarter(asked)},SQ8", top),
}


def quarter(asked: Asked) -> int:
    """Of the features."""
    return asked.rows.shape[1] // 4


def likeness(asked: Asked) -> float:
    """The root mean square cosine of two rows, in that of random directions."""
    some = normalize(asked.rows[:: len(asked.rows) // 1000])
    cosines = (some @ some.T).fill_diagonal_(0)
    count = len(some) * (len(some) - 1)
    return math.sqrt(float(cosines.square().sum()) / count * some.shape[1])


def table(asked: Asked) -> str:
    """Of each scheme how much must be read for the highest ten and hundred."""
    lines = []
    for name, measure in SCHEMES.items():
        line: dict[str, Any] = {"": name}
        for top in TOPS:
            share, read = measure(asked, top)
            line[f"rows, top {top}"] = f"{share:.1%}"
            line[f"fewer bytes, top {top}"] = f"{1 / read:.1f}"
        lines.append(line)
    return markdown(lines)


# --- millions of rows ---------------------------------------------------------------------------

# Bits -> correlation of scores by codes with those by rows, where rows are normal: sqrt(1 - D) by
# the distortion D of the best uniform quantiser of a normal number (Max 1960).
CORRELATIONS = {1: 0.80, 4: 0.994}


def share_by_law(bits: int, rows: int, top: int, recall: float = RECALL) -> float:
    """The same as `needed` where both scores are normal, of any number of rows."""
    correlation = CORRELATIONS[bits]
    spread = math.sqrt(1 - correlation**2)
    best = -torch.special.ndtri((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000 * top / rows)
    low, high = -10.0, 10.0
    for _ in range(60):
        least = (low + high) / 2
        found = torch.special.ndtr((correlation * best - least) / spread).mean()
        low, high = (least, high) if found > recall else (low, least)
    return float(torch.special.ndtr(torch.tensor(-low)))


def law() -> str:
    """How many must be read, and how many fewer bytes that are."""
    lines = []
    for rows in (20_000, 100_000, 1_000_000, 10_000_000):
        line: dict[str, Any] = {"images": f"{rows:,}"}
        for top in TOPS:
            share = share_by_law(1, rows, top)
            left, few = (share_by_law(bits, rows, top, math.sqrt(RECALL)) for bits in (1, 4))
            line |= {
                f"rows, top {top}": f"{share:.1%}",
                f"fewer bytes, top {top}": f"{1 / (1 / 16 + share):.1f}",
                f"... then 4 bits, top {top}": f"{1 / (1 / 16 + left * 4 / 16 + few):.1f}",
            }
        lines.append(line)
    return markdown(lines)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of this thread, and what came of it."""
    start = time.process_time()
    found = call()
    return (time.process_time() - start) * 1000, found


def millions(count: int, dim: int, folder: Path) -> str:
    """Times and recall of eight questions to normal rows."""
    chance = torch.Generator().manual_seed(0)
    questions = torch.randn(8, dim, generator=chance)
    index = faiss.index_factory(dim, "RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    stored = np.memmap(folder / "rows.f16", np.float16, "w+", shape=(count, dim))
    scores, rows = torch.empty(len(questions), count), torch.from_numpy(stored)
    took = 0.0
    for start in range(0, count, PART):
        block = torch.randn(min(PART, count - start), dim, generator=chance)
        rows[start : start + len(block)] = block
        scores[:, start : start + len(block)] = questions @ block.T
        if start == 0:
            index.train(block.numpy())
        took += timed(lambda block=block: index.add(block.numpy()))[0]

    def exact(asked: Tensor, blocks: Iterable[Tensor]) -> Tensor:
        return torch.cat([block.float() @ asked for block in blocks])

    lines: list[dict[str, Any]] = []
    for share in (0.005, 0.01, 0.02, 0.04, 0.08):
        found: list[list[float]] = []
        for asked, own in zip(questions, scores, strict=True):
            by = round(share * count)
            codes, (_, chosen) = timed(lambda a=asked, by=by: index.search(a[None].numpy(), by))
            places = torch.from_numpy(chosen[0]).sort().values
            whole, _ = timed(
                lambda a=asked, p=places: exact(a, (rows[part] for part in p.split(2048)))
            )
            recall = [torch.isin(own.topk(top).indices, places).float().mean() for top in TOPS]
            found.append([codes, whole, *map(float, recall)])
        codes, whole, *recall = torch.tensor(found).mean(0).tolist()
        ms = {"codes, ms": f"{codes:.0f}", "rows, ms": f"{whole:.0f}"}
        right = {f"recall, top {top}": each for top, each in zip(TOPS, recall, strict=True)}
        lines.append({"rows": f"{share:.1%}", **ms, **right})
    every, _ = timed(lambda: exact(questions[0], rows.split(2048)))
    said = f"codes made in {took / 1000:.0f} s, {index.code_size} bytes a row; all rows in"
    return f"{markdown(lines)}{said} {every:.0f} ms\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1_000_000, help="normal ones")
    parser.add_argument("--dim", type=int, default=1024, help="features of the normal rows")
    parser.add_argument("--folder", type=Path, help="keeps gradients; default a temporary one")
    given = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        for name, asked in real(given.pictures, given.folder or Path(temporary)):
            print(f"{len(asked.rows):,} rows of {asked.rows.shape[1]}: {name}")
            print(f"rms cosine {likeness(asked):.2f} times that of random directions")
            print(table(asked), flush=True)
        print(f"by the normal law\n{law()}")
        print(f"{given.rows:,} normal rows of {given.dim}")
        print(millions(given.rows, given.dim, Path(temporary)))
    print(circumstances()["machine"])


if __name__ == "__main__":
    main()
