"""How much memory does it take to project a batch of gradients of one large layer, and how long?

A linear layer of 3,072 by 12,288 (Flux's, 37.7 million numbers) sees 64 random tokens of each
sample. Peak memory of a process above what it held before the batch, with the gradients formed in
blocks and, to compare, whole; each in a process of its own. The tables of the projection are made
before and stand beside it. Fails where a batch in blocks takes more than half of the whole
gradients' bytes. CPU, Linux.

    export OMP_NUM_THREADS=1
    python benchmarks/memory_layer.py [--batch 4] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

INPUTS, OUTPUTS, TOKENS, DIM = 3072, 12288, 64, 8192
NAMES = ("count-sketch", "factored", "mask")
WAYS = ("in blocks", "whole")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", nargs=2, metavar=("PROJECTION", "WAY"), help="in this process")
    given = parser.parse_args()
    if given.work is not None:
        name, way = given.work
        print(json.dumps(measured(name, way, given.batch)))
        return 0
    found = {name: {way: in_its_own_process(name, way, given.batch) for way in WAYS}
             for name in NAMES}  # fmt: skip
    gradients = given.batch * INPUTS * OUTPUTS * 4 / 1e6
    if given.json:
        print(json.dumps({"batch": given.batch, "gradients (MB)": gradients, **found}))
    else:
        print(f"{given.batch} gradients are {gradients:,.0f} MB")
        for name in NAMES:
            for way, facts in found[name].items():
                numbers = "  ".join(f"{fact} {number:,.1f}" for fact, number in facts.items())
                print(f"{name:<14}{way:<11}{numbers}")
    return int(any(ways[WAYS[0]]["peak (MB)"] > gradients / 2 for ways in found.values()))


def in_its_own_process(name: str, way: str, batch: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--work", name, way, "--batch", str(batch)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measured(name: str, way: str, batch: int) -> dict[str, float]:
    """Megabytes above what was there before the batch, and seconds of the second of two."""
    import torch

    from headwater.gradients import blocks
    from headwater.gradients.projection import make_projection

    torch.set_num_threads(1)
    if way == "whole":
        blocks.MOST = 2**62
    layer = torch.nn.Linear(INPUTS, OUTPUTS, bias=False)
    begun = time.perf_counter()
    add = make_projection(name, {"layer": layer}, DIM, 0).add["layer"]
    made = time.perf_counter() - begun
    calls = [(torch.randn(batch, TOKENS, INPUTS), torch.randn(batch, TOKENS, OUTPUTS))]
    before = peak(reset=True)
    add(torch.zeros(batch, DIM), calls)
    begun = time.perf_counter()
    add(torch.zeros(batch, DIM), calls)
    took = time.perf_counter() - begun
    return {"peak (MB)": peak() - before, "batch (s)": took, "made (s)": made}


def peak(reset: bool = False) -> float:
    """The most megabytes that were resident, since the start or since it was reset."""
    process = Path("/proc/self")
    if reset:
        (process / "clear_refs").write_text("5")
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
