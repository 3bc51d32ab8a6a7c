"""The sizes of the experiment on the scenes: reduced for two cores, and the bundled model's."""

from __future__ import annotations

from pathlib import Path

from common import RESULTS

from headwater import TrainingSet, load_dataset
from headwater.evaluation.retraining.bundled import CONFIG
from headwater.evaluation.retraining.config import ModelConfig, Phase

REDUCED = ModelConfig(
    phases=(Phase(1_500, learning_rate=2e-3, weight="shapes-first"),),
    network={"block_out_channels": (16, 32, 64)},
    text_encoder=None,
    ema_decay=0.998,
)


def config_of(full: bool) -> ModelConfig:
    return CONFIG if full else REDUCED


def data_of(full: bool) -> TrainingSet:
    data = load_dataset("scenes")
    return data if full else data.first(1_000)


def folder(full: bool) -> Path:
    return RESULTS / ("scenes-full" if full else "scenes")
