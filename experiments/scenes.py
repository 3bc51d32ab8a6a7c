"""The scenes: which scores predict what models learn when half of the pictures are gone?

Reduced, so that two cores carry it: the first 1,000 training pictures; a UNet of a third of the
bundled one's parameters, trained from random weights for 1,500 steps, with the bundled text
encoder and autoencoder as they are; 16 random halves, 8 of them trained with a second seed too.
`--full` is 64 halves of the bundled architecture with its own training, for a GPU.

    export OMP_NUM_THREADS=1
    python experiments/scenes.py models [--jobs 2]     train and measure; goes on where it stopped
    python experiments/scenes.py tables                attribute the full model, write the tables

`--halves` and `--again` take fewer than there are to be. Everything lies in
`experiments/results/scenes`; what was measured of each model is kept in the repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import RESULTS, about, parser

from headwater import Denoiser, TrainingSet, load_dataset
from headwater.evaluation.answers import Asking, membership, scores
from headwater.evaluation.halving import Plan, collect, rows_of
from headwater.evaluation.models import ModelConfig, Phase, encoded
from headwater.evaluation.results import write_results
from headwater.evaluation.retraining import Measured, Study, kept_encoding, retrained
from headwater.evaluation.scoring import MEMBERSHIP
from headwater.evaluation.studies import indexes_of
from headwater.evaluation.truth import read_truths
from headwater.scenes import measuring
from headwater.scenes.train import CONFIG

METHODS = (
    "concept-trak",
    "concept-trak-a",
    "concept-trak-b",
    "concept-trak-c",
    "trak",
    "d-trak",
    "das",
    "pixel-cosine",
    "random",
)
REDUCED = ModelConfig(
    phases=(Phase(1_500, learning_rate=2e-3, weight="shapes-first"),),
    unet={"block_out_channels": (16, 32, 64)},
    text_encoder=None,
    ema_decay=0.998,
)


def main() -> None:
    command = parser(__doc__, "models", "tables")
    command.add_argument("--halves", type=int)
    command.add_argument("--again", type=int)
    command.add_argument("--parameters", default="attn2")
    given = command.parse_args()
    torch.set_num_threads(1)
    plan = plan_of(given.full, given.halves, given.again)
    measured = trained(given.full, plan, given.jobs, given.device)
    if given.stage == "tables":
        tables(given.full, plan, measured, given)


def data_of(full: bool) -> TrainingSet:
    data = load_dataset("scenes")
    return data if full else data.first(1_000)


def plan_of(full: bool, halves: int | None, again: int | None) -> Plan:
    most = (64, 16) if full else (16, 8)
    return Plan(
        len(data_of(full)),
        most[0] if halves is None else halves,
        most[1] if again is None else again,
    )


def folder(full: bool) -> Path:
    return RESULTS / ("scenes-full" if full else "scenes")


def trained(full: bool, plan: Plan, jobs: int, device: str) -> list[Measured]:
    """What was measured of every model of the plan."""
    data, encoder = data_of(full), Denoiser.load("scenes", "cpu")
    out = folder(full)
    study = Study(
        out,
        CONFIG if full else REDUCED,
        kept_encoding(out / "encoded.safetensors", lambda: encoded(encoder, data)),
        f"{data.fingerprint} {encoder.encoders_fingerprint()}",
        measuring.measure,
        measuring.facts(),
        device,
    )
    return retrained(study, plan.tasks(), jobs)


def tables(full: bool, plan: Plan, measured: list[Measured], given: argparse.Namespace) -> None:
    """Attribute the model of everything for each concept; a table of LDS for each output."""
    data, out = data_of(full), folder(full)
    truths = read_truths("scenes", data.samples)
    model = Denoiser.load(out / "models" / plan.full.name, given.device)
    asked = indexes_of(model, data, out / "indexes", METHODS, parameters=given.parameters)
    answers = scores(asked, truths, Asking(given.draws, guidance=3.0), out / "scores")
    answers[MEMBERSHIP] = membership(truths)
    stated = about(given, halves=plan.subsets, again=plan.again)
    for output in ("loss", "contribution", "rate"):
        found = collect(plan, measured, lambda each, name=output: measuring.by_concept(each)[name])
        rows = rows_of(plan, found, answers, MEMBERSHIP)
        title = f"Concept LDS on the scenes, {output}: {plan.subsets} halves, {given.parameters}"
        path = out / f"{output}-{given.parameters}"
        print(write_results(path, title, stated, rows)["rows"][-1], path / "table.md")


if __name__ == "__main__":
    main()
