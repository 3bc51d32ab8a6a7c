"""The scenes: which scores predict what models learn when half of the pictures are gone?

Reduced, so that two cores carry it: the first 1,000 training pictures; a UNet of a third of the
bundled one's parameters, trained from random weights for 1,500 steps, with the bundled text
encoder and autoencoder as they are; 16 random halves, 8 of them trained with a second seed too.
`--full` is 64 halves of the bundled architecture with its own training, for a GPU.

    export OMP_NUM_THREADS=1
    python experiments/scenes.py models [--jobs 2]     train and measure; goes on where it stopped
    python experiments/scenes.py tables                attribute the full model, write the tables

Everything lies in `experiments/results/scenes`; the measured outputs are kept in the repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from headwater import Denoiser, TrainingSet, load_dataset
from headwater.evaluation.halving import Plan
from headwater.evaluation.models import ModelConfig, Phase, encoded
from headwater.evaluation.retraining import Measured, Study, kept_encoding, retrained
from headwater.scenes import measuring
from headwater.scenes.train import CONFIG

RESULTS = Path(__file__).parent / "results"
REDUCED = ModelConfig(
    phases=(Phase(1_500, learning_rate=2e-3, weight="shapes-first"),),
    unet={"block_out_channels": (16, 32, 64)},
    text_encoder=None,
    ema_decay=0.998,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("models", "tables"))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.stage == "models":
        trained(given.full, given.jobs, given.device)


def data_of(full: bool) -> TrainingSet:
    data = load_dataset("scenes")
    return data if full else data.first(1_000)


def plan_of(full: bool) -> Plan:
    halves, again = (64, 16) if full else (16, 8)
    return Plan(len(data_of(full)), halves, again)


def trained(full: bool, jobs: int, device: str) -> list[Measured]:
    """What was measured of every model of the plan."""
    data, encoder = data_of(full), Denoiser.load("scenes", "cpu")
    out = RESULTS / ("scenes-full" if full else "scenes")
    study = Study(
        out,
        CONFIG if full else REDUCED,
        kept_encoding(out / "encoded.safetensors", lambda: encoded(encoder, data)),
        f"{data.fingerprint} {encoder.encoders_fingerprint()}",
        measuring.measure,
        measuring.facts(),
        device,
    )
    return retrained(study, plan_of(full).tasks(), jobs)


if __name__ == "__main__":
    main()
