"""Small models side by side: how many training steps a second, one at a time and several?

Each worker (`--jobs`, as of the commands that train many models) trains a model of its own on the
scenes. All start at the same moment, after a short training that warms up; printed are the steps a
second of all together, until the last one ends, and how many times the first setting's that is.

    python benchmarks/training.py [--jobs 1 4 16] [--steps 300] [--device cuda] [--json]

`reduced` is the model of the experiment on the scenes (1.1 million parameters, text encoder as it
is), `bundled` the bundled architecture (2.7 million, with its text encoder), both at batch 32. On
one GPU the processes take turns, unless NVIDIA's MPS lets their kernels overlap.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from headwater import Denoiser, load_dataset
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.models import EncodedData, encode_data, train
from headwater.evaluation.retraining.networks import new_pipeline
from headwater.runtime.executor import Executor, run

WARM_UP = 20  # steps
PATIENCE = 300  # seconds
MODELS = {
    "reduced": {"network": {"block_out_channels": (16, 32, 64)}, "text_encoder": None},
    "bundled": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--jobs", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    data = encode_data(Denoiser.load("scenes", "cpu"), load_dataset("scenes").first(200))
    rows = [
        {"model": name, "jobs": jobs, "steps per second": measured(name, jobs, data, given)}
        for name in given.models
        for jobs in given.jobs
    ]
    print(json.dumps({"rows": rows}) if given.json else table(rows))


def measured(name: str, jobs: int, data: EncodedData, given: argparse.Namespace) -> float:
    """Steps a second of all workers together."""
    with tempfile.TemporaryDirectory() as folder:
        meet = Path(folder)
        start = partial(worker, name, jobs, data, meet, given.steps, given.device)
        spent = list(run(Executor(jobs=jobs), start, range(jobs), given.device))
    return jobs * given.steps / max(spent)


def worker(
    name: str, jobs: int, data: EncodedData, meet: Path, steps: int, device: str
) -> Callable[[int], float]:
    """Trains one model; the seconds it takes once all have come to the folder `meet`."""

    def work(number: int) -> float:
        torch.set_num_threads(1)
        trained(name, data, meet / f"warm-{number}", WARM_UP, device)
        (meet / f"here-{number}").touch()
        come = time.monotonic()
        while len(list(meet.glob("here-*"))) < jobs:
            if time.monotonic() > come + PATIENCE:
                sys.exit("a worker did not come: see what it said above")
            time.sleep(0.01)
        return trained(name, data, meet / f"work-{number}", steps, device)

    return work


def trained(name: str, data: EncodedData, work: Path, steps: int, device: str) -> float:
    """Seconds, with the weights' way to the device, a GPU's recording and the last checkpoint."""
    config = ModelConfig(phases=(Phase(steps),), **MODELS[name])
    pipe = new_pipeline(config, 0)
    begun = time.perf_counter()
    train(pipe, data, config, work, device=device)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def table(rows: list[dict]) -> str:
    lines = [f"{'model':<9}{'jobs':>5}{'steps/s':>10}{'of first':>10}"]
    for row in rows:
        first = next(r for r in rows if r["model"] == row["model"])["steps per second"]
        rate = row["steps per second"]
        lines.append(f"{row['model']:<9}{row['jobs']:>5}{rate:>10.1f}{rate / first:>10.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
