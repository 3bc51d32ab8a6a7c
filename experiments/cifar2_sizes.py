"""The sizes of the experiment on CIFAR-2: reduced for two cores, and near the DAS paper's."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.evaluation.retraining.config import ModelConfig, Phase

_SHAPE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    name: str
    config: ModelConfig
    images: int
    asked: int
    halves: int
    again: int
    parameters: str = "all"


REDUCED = Size(
    "cifar2",
    ModelConfig(
        phases=(Phase(1_500, batch=32, learning_rate=1e-3),),
        base="",
        network={
            **_SHAPE,
            "sample_size": 16,
            "block_out_channels": (16, 32, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
        },
        text_encoder=None,
        ema_decay=0.998,
    ),
    images=500,
    asked=60,
    halves=16,
    again=8,
)
FULL = Size(
    "cifar2-full",
    ModelConfig(
        phases=(Phase(7_800, batch=128, learning_rate=1e-4),),  # 200 epochs of everything
        base="",
        network={
            **_SHAPE,
            "sample_size": 32,
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 2,
        },
        text_encoder=None,
        ema_decay=0.9999,
        flip=True,
    ),
    images=5_000,
    asked=1_000,
    halves=64,
    again=16,
)
