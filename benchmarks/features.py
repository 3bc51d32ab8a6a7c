"""What does a probe cost, in forward passes of the network?

One unit is the time of one no-grad forward pass at the same batch. The floor is 2 units for dsm
(forward, backward to the layers' outputs) and 3 for dps with shared inversion and for a concept
query. Measured is the whole step: path, guidance, gradient, projection, exact norms, and writing
the rows to disk. Step and forward pass are timed in turn, CPU time (on a GPU, wall time), one
thread; printed is the median ratio. Fails above the bounds.

    export OMP_NUM_THREADS=1
    python benchmarks/features.py [--models bundled wide sd1] [--dtype float32] [--device cpu]
        [--channels-last] [--compile] [--json]

`bundled` is the model of the scenes, `wide` a random UNet ten times as wide (270M parameters) on
the same latents, `sd1` the UNet of Stable Diffusion 1.x (860M) with random weights on 64x64
latents; the two large ones want a GPU for more than a few pictures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from headwater import Denoiser
from headwater.features.batch import Batch
from headwater.features.objectives import concept_objectives
from headwater.index.config import plan
from headwater.index.machines import gradient_extractor
from headwater.models.condition import Condition
from headwater.models.patches import compiled
from headwater.runtime.memory import peak_bytes
from headwater.storage.manifest import Manifest
from headwater.storage.shards import ShardRows, write_shard

BOUNDS = {"dps": 3.5, "dsm": 2.5, "concept": 3.5}
TIMESTEPS = 10
SD1 = dict(
    sample_size=64,
    cross_attention_dim=768,
    block_out_channels=(320, 640, 1280, 1280),
    attention_head_dim=8,
)
# network, batch and features of each model, and how often it is measured
MODELS = {
    "bundled": {"batch": 32, "dim": 8192, "repeats": 9, "tokens": 32},
    "wide": {"batch": 2, "dim": 8192, "repeats": 2, "tokens": 32},
    "sd1": {"batch": 16, "dim": 32768, "repeats": 3, "tokens": 77},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["bundled", "wide"])
    parser.add_argument("--batch", type=int, help="pictures, instead of the model's own")
    parser.add_argument("--timesteps", type=int, default=TIMESTEPS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    rows = [row for name in given.models for row in measure(name, given)]
    failed = [
        f"{row['model']} {row['step']}: {row['units']:.2f} > {BOUNDS[row['step']]}"
        for row in rows
        if row["units"] > BOUNDS[row["step"]]
    ]
    print(json.dumps({"rows": rows, "failed": failed}) if given.json else table(rows, failed))
    return 1 if failed else 0


def denoiser_of(name: str, device: str, dtype: torch.dtype) -> Denoiser:
    """The bundled pipeline, with another random UNet where the name says so."""
    pipe = Denoiser.load("scenes").pipe
    if name != "bundled":
        config = dict(pipe.unet.config)
        config |= SD1 if name == "sd1" else wide(config)
        if name == "sd1":
            defaults = ("down_block_types", "up_block_types", "layers_per_block", "norm_num_groups")
            config = {k: v for k, v in config.items() if k not in defaults}
        torch.manual_seed(0)
        pipe.unet = UNet2DConditionModel.from_config(config)
    return Denoiser(pipe, name, device, dtype)


def wide(config: dict) -> dict:
    """Ten times the channels everywhere."""
    return {
        "block_out_channels": [10 * width for width in config["block_out_channels"]],
        "cross_attention_dim": 10 * config["cross_attention_dim"],
    }


def measure(name: str, given: argparse.Namespace) -> list[dict]:
    """One row for each kind of step: units per probe, their spread, pictures a second, memory."""
    settings = MODELS[name]
    if given.device.startswith("cuda"):
        torch.cuda.empty_cache()  # of the model before
        torch.cuda.reset_peak_memory_stats()
    denoiser = denoiser_of(name, given.device, getattr(torch, given.dtype))
    network, batch = denoiser.network, given.batch or settings["batch"]
    if given.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    torch.manual_seed(0)
    x0 = torch.randn(batch, *denoiser.latent_shape).to(denoiser.device)
    config: Any = network.config
    captions = torch.randn(2, batch, settings["tokens"], config.cross_attention_dim)
    words = captions.to(denoiser.device, denoiser.dtype)
    plus, minus = (Condition({"encoder_hidden_states": each}) for each in words)
    pictures = Batch(x0, plus, [str(i) for i in range(batch)])

    def machine(method: str):
        recipe = plan(denoiser, method=method, dim=settings["dim"], timesteps=given.timesteps)
        return gradient_extractor(denoiser, recipe)

    dps, dsm = machine("concept-trak-unguided"), machine("concept-trak-a")
    steps = {
        "dps": lambda: dps.train_rows(pictures).features,
        "dsm": lambda: dsm.train_rows(pictures).features,
        "concept": lambda: dps.query_rows(
            concept_objectives(denoiser, x0, plus, minus, None, dps.timesteps)
        ),
    }

    @torch.no_grad()
    def forward() -> object:
        return denoiser.predict(x0, 500, plus)

    rows = []
    layers = list(dps.layers.values())
    with (
        tempfile.TemporaryDirectory() as folder,
        compiled(network, layers) if given.compile else nullcontext(),
    ):
        for step, compute in steps.items():
            whole = stored(compute, Path(folder))
            forward(), whole()  # warm
            pairs = [(seconds(forward), seconds(whole)) for _ in range(settings["repeats"])]
            ratios = [mine / (given.timesteps * unit) for unit, mine in pairs]
            rows.append({
                "model": name,
                "step": step,
                "parameters": sum(p.numel() for p in network.parameters()),
                "batch": batch,
                "units": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "forward ms per picture": 1e3 * min(unit for unit, _ in pairs) / batch,
                "pictures per second": batch / min(mine for _, mine in pairs),
                "peak MB": round((peak_bytes(denoiser.device) or 0) / 1e6),
            })  # fmt: skip
    return rows


def stored(compute: Callable[[], torch.Tensor], folder: Path) -> Callable[[], object]:
    """The step with its last part: rows to float16, to disk, checksummed."""
    nothing = {"source": "", "options": {}, "dtype": "", "fingerprint": "", "rows": 0}
    index = Manifest(recipe={}, model=nothing, data=nothing, versions={}, shard_rows=1)

    def whole() -> object:
        rows = compute().cpu()
        return write_shard(folder, index, 0, ShardRows(rows, range(len(rows))))

    return whole


def seconds(work: Callable[[], object]) -> float:
    """CPU time of this process; wall time where a GPU does the work."""
    if not torch.cuda.is_available():
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def table(rows: list[dict], failed: list[str]) -> str:
    lines = [
        f"{'model':<9}{'step':<9}{'batch':>5}{'units per probe':>24}{'pictures/s':>12}{'MB':>8}"
    ]
    for row in rows:
        units = f"{row['units']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        lines.append(
            f"{row['model']:<9}{row['step']:<9}{row['batch']:>5}{units:>24}"
            f"{row['pictures per second']:>12.3g}{row['peak MB']:>8}"
        )
    return "\n".join([*lines, *(f"FAILED {line}" for line in failed)])


if __name__ == "__main__":
    sys.exit(main())
