"""A small classifier that reads object, colour, style and background off a picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from headwater.scenes.vocabulary import ATTRIBUTES

BUNDLED = Path(__file__).parent / "judge.safetensors"


class AttributeClassifier(nn.Module):
    """Pictures [b, 3, 64, 64] in [-1, 1] -> for each attribute the logits of its values."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        blocks = []
        for before, after in pairwise(widths):
            blocks += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.SiLU(),
            ]
        self.trunk = nn.Sequential(*blocks)  # 64x64 -> 4x4
        self.heads = nn.ModuleDict({
            attribute: nn.Linear(128 * 16, len(values)) for attribute, values in ATTRIBUTES.items()
        })  # fmt: skip

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images)
        return {attribute: head(features) for attribute, head in self.heads.items()}

    def features(self, images: Tensor) -> Tensor:
        """What all attributes are read from, [b, 2048]: the trunk's output."""
        return self.trunk(images).flatten(1)

    @torch.no_grad()
    def read(self, images: Tensor, batch: int = 100) -> dict[str, list[str]]:
        """The most likely value of every attribute, for each picture."""
        answers: dict[str, list[str]] = {attribute: [] for attribute in ATTRIBUTES}
        for part in images.split(batch):
            for attribute, logits in self(part).items():
                values = ATTRIBUTES[attribute]
                answers[attribute] += [values[i] for i in logits.argmax(1).tolist()]
        return answers


def load_classifier(path: Path = BUNDLED) -> AttributeClassifier:
    """The bundled classifier, ready to read."""
    classifier = AttributeClassifier()
    classifier.load_state_dict(load_file(path))
    return classifier.eval()
