"""How much memory do gradients of all parameters take, beside a plain training step?

Peak memory of a process above what it held with the bundled model loaded: of one training step
(forward, backward to every weight) and of one batch of features (two timesteps, so that what a
probe leaves behind would show), each in a process of its own. Fails above 3x. CPU, Linux or macOS.

    export OMP_NUM_THREADS=1
    python benchmarks/memory.py [--batch 32] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

BOUND = 3.0
WORK = ("training step", "concept-trak-unguided", "trak")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", choices=WORK, help="do this in this process, and print megabytes")
    given = parser.parse_args()
    if given.work is not None:
        print(f"{megabytes(given.work, given.batch):.1f}")
        return 0
    peaks = {work: in_its_own_process(work, given.batch) for work in WORK}
    ratios = {work: peaks[work] / peaks[WORK[0]] for work in WORK}
    if given.json:
        print(json.dumps({"batch": given.batch, "MB": peaks, "ratio": ratios}))
    else:
        for work in WORK:
            print(f"{work:<22}{peaks[work]:>8.1f} MB{ratios[work]:>6.2f}x")
    return int(max(ratios.values()) > BOUND)


def in_its_own_process(work: str, batch: int) -> float:
    command = [sys.executable, __file__, "--work", work, "--batch", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def megabytes(work: str, batch: int) -> float:
    """Peak above the loaded model."""
    import torch

    from headwater import Denoiser
    from headwater.features.batch import Batch
    from headwater.index.config import plan
    from headwater.index.machines import gradient_extractor
    from headwater.runtime.memory import peak_bytes

    torch.set_num_threads(1)
    denoiser = Denoiser.load("scenes")
    x0 = torch.randn(batch, *denoiser.latent_shape)
    condition = denoiser.encode_captions(["a red star"] * batch)
    before = peak_bytes(denoiser.device)
    if work == WORK[0]:
        denoiser.network.train()
        out = denoiser.predict(x0, 500, condition)
        (out - x0).square().mean().backward()
    else:
        recipe = plan(denoiser, method=work, parameters="all", timesteps=2)
        pictures = Batch(x0, condition, [str(i) for i in range(batch)])
        gradient_extractor(denoiser, recipe).train_rows(pictures)
    after = peak_bytes(denoiser.device)
    assert before is not None and after is not None, "this system does not tell"
    return (after - before) / 1e6


if __name__ == "__main__":
    sys.exit(main())
