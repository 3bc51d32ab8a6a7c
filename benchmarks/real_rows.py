"""Gradients of the scenes, probe by probe, for benchmarks that look at rows themselves."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers_contenders import trak
from torch import Tensor

from headwater import Concept, Denoiser, Session, build_index, load_dataset
from headwater.features.batch import encoded_batch
from headwater.features.extractor import Extractor
from headwater.index.machines import gradient_extractor
from headwater.scenes.dataset import describe, pictures
from headwater.storage import cache

TIMESTEPS, DIM = 10, 4096
HELD_OUT, CONCEPTS, DRAWS = 64, 8, 16
BLOCK = 32  # pictures at a time


def from_command_line(said: str | None, pictures: int) -> dict[str, Tensor]:
    """The gradients of as many pictures as the command line says."""
    command = argparse.ArgumentParser(
        description=said, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("--pictures", type=int, default=pictures)
    command.add_argument("--folder", type=Path, help="keeps gradients; default a temporary one")
    given = command.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        return gradients(given.pictures, given.folder or Path(temporary))


def gradients(count: int, folder: Path) -> dict[str, Tensor]:
    """Of training and held-out pictures one row for each timestep, [n, t, k]; of concepts one."""
    facts = {"pictures": count, "timesteps": TIMESTEPS, "dim": DIM, "held out": HELD_OUT}

    def compute() -> cache.Computed:
        denoiser = Denoiser.load("scenes", "cpu")
        machine = gradient_extractor(denoiser, trak(denoiser, TIMESTEPS, dim=DIM))
        assert isinstance(machine, Extractor)
        data, held = load_dataset("scenes").first(count), pictures("validation")[:HELD_OUT]
        trained = [(data.image(row), sample) for row, sample in enumerate(data.samples)]
        drawn = [(picture.draw(), picture) for picture in held]
        return {
            "rows": probes(machine, trained),
            "pictures": probes(machine, drawn),
            "concepts": concepts(denoiser, folder),
        }

    return cache.remember(folder, facts, compute).tensors


def probes(machine: Extractor, images: list[tuple[Any, Any]]) -> Tensor:
    """A row of each picture at each timestep."""
    found = []
    for start in range(0, len(images), BLOCK):
        shown, known = zip(*images[start : start + BLOCK], strict=True)
        captions, ids = [[each.caption] for each in known], [each.id for each in known]
        batch = encoded_batch(machine.denoiser, shown, captions, ids)
        found.append(torch.stack([row.features.clone() for row in machine.train_probes(batch)], 1))
    return torch.cat(found)


def concepts(denoiser: Denoiser, folder: Path) -> Tensor:
    """What concepts of held-out pictures are asked by, [q, k]."""
    few, found = load_dataset("scenes").first(8), []
    how: dict[str, Any] = dict(parameters="attn2", timesteps=TIMESTEPS, dim=DIM, self_check=False)
    session = Session(build_index(denoiser, few, folder / "few", method="trak", **how))
    for number, picture in enumerate(pictures("validation")[:CONCEPTS]):
        words = picture.scene.attributes
        concept = list(words.values())[number % len(words)]
        question = Concept(describe(**words), concept, draws=DRAWS)
        found.append(torch.tensor(session.attribute(question, method="concept-trak-a").feature))
    return torch.stack(found)
