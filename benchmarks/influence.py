"""EK-FAC influence beside kronfluence: the same scores, and what they cost?

The bundled model, its training pictures at two timesteps each, the same noise, the training loss as
the loss and, on held-out pictures, as the measurement; targets of the data, so that nothing is
drawn; damping 0.1 of each layer's mean eigenvalue, kronfluence's own. Each fits its factors and
scores every picture for every question, alone, on one thread, CPU time. headwater keeps the rows of
the pictures (all numbers of attn2, float16) and then asks; kronfluence passes over the pictures
again for a batch of questions, and is given all questions at once, which is its best case. Fails
where the scores of the two correlate by less than 0.999 for any question.

    pip install --no-deps kronfluence einconv einops
    export OMP_NUM_THREADS=1
    python benchmarks/influence.py [--rows 256] [--questions 16]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kronfluence.analyzer import (  # pyright: ignore[reportMissingImports]
    Analyzer,
    prepare_model,
)
from kronfluence.arguments import (  # pyright: ignore[reportMissingImports]
    FactorArguments,
    ScoreArguments,
)
from kronfluence.task import Task  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from torch.utils.data import Dataset

from headwater import Denoiser, Loss, Session, TrainingSet, build_index, from_images, load_dataset
from headwater.models.sampling import seeded_noise
from headwater.scenes.dataset import pictures

PARAMETERS, TIMESTEPS, BATCH, DAMPING = "attn2", 2, 32, 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256, help="training pictures")
    parser.add_argument("--questions", type=int, default=16, help="held-out pictures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    denoiser, data = Denoiser.load("scenes", "cpu"), load_dataset("scenes").first(given.rows)
    shown = pictures("validation")[: given.questions]
    held = [from_images([picture.draw()], [picture.caption]) for picture in shown]
    with tempfile.TemporaryDirectory() as folder:
        ours, own = headwater_scores(denoiser, data, held, Path(folder) / "index")
        theirs, other = kronfluence_scores(denoiser, data, held, Path(folder))
    alike = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(ours, theirs, strict=True)]
    found = {"pearson, least": min(alike), "pearson, mean": float(np.mean(alike))}
    print(json.dumps({**found, "headwater": own, "kronfluence": other}, indent=1))
    return 0 if min(alike) > 0.999 else 1


def headwater_scores(
    denoiser: Denoiser, data: TrainingSet, held: list[TrainingSet], out: Path
) -> tuple[np.ndarray, dict[str, float]]:
    """Scores [q, n], and CPU seconds."""
    start = time.process_time()
    index = build_index(
        denoiser, data, out, method="ekfac", curvature_targets="data", projection="identity",
        parameters=PARAMETERS, timesteps=TIMESTEPS, batch_size=BATCH, self_check=False,
    )  # fmt: skip
    built, session = time.process_time(), Session(index)
    scores = [
        session.attribute(
            Loss(one.samples[0].caption, one.samples[0].caption, pictures=one, draws=1),
            damping=DAMPING,
        ).scores
        for one in held
    ]
    return np.stack(scores), {"fit and rows": built - start, "ask": time.process_time() - built}


# --- the same by kronfluence ----------------------------------------------------------------------


class Noised(Dataset):
    """Every picture at every timestep, with the noise that the index draws for it."""

    def __init__(self, denoiser: Denoiser, data: TrainingSet, timesteps: list[int], key: str):
        self.rows = [(row, t) for row in range(len(data)) for t in timesteps]
        self.x0 = denoiser.encode_images([data.image(row) for row in range(len(data))])
        condition = denoiser.encode_captions([sample.caption for sample in data.samples])
        assert condition is not None, "the bundled model reads captions"
        self.read = condition.tensors["encoder_hidden_states"]
        self.denoiser, self.ids, self.key = denoiser, [s.id for s in data.samples], key

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row, t = self.rows[number]
        x0, own = self.x0[row], self.key.format(id=self.ids[row])
        noise = seeded_noise(x0.shape, f"0|{own}|{t}|0")
        a = self.denoiser.pipe.scheduler.alphas_cumprod[t]
        xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
        return {"xt": xt, "t": t, "noise": noise, "read": self.read[row]}


class Denoising(Task):
    """Half the squared error of the predicted noise."""

    def __init__(self, layers: list[str]):
        self.layers = layers

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        assert not sample, "targets are those of the data"
        out = model(batch["xt"], batch["t"], encoder_hidden_states=batch["read"]).sample
        return (out - batch["noise"]).square().sum() / 2

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.layers


def kronfluence_scores(
    denoiser: Denoiser, data: TrainingSet, held: list[TrainingSet], out: Path
) -> tuple[np.ndarray, dict[str, float]]:
    """Scores [q, n], and CPU seconds."""
    start, timesteps = time.process_time(), denoiser.schedule.evenly_spaced(TIMESTEPS)
    task = Denoising(list(denoiser.layers(PARAMETERS)))
    train = Noised(denoiser, data, timesteps, "{id}")
    parts = [Noised(denoiser, one, timesteps, "output|0|0") for one in held]
    model = prepare_model(denoiser.network, task)
    analyzer = Analyzer("scenes", model, task, cpu=True, output_dir=str(out), disable_tqdm=True)
    analyzer.fit_all_factors(
        "ekfac", train, per_device_batch_size=BATCH,
        factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True),
    )  # fmt: skip
    fitted = time.process_time()
    analyzer.compute_pairwise_scores(
        "scores", "ekfac", torch.utils.data.ConcatDataset(parts), train,
        per_device_query_batch_size=TIMESTEPS * len(held), per_device_train_batch_size=BATCH,
        score_args=ScoreArguments(damping_factor=None),
    )  # fmt: skip
    scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    summed = scores.reshape(len(held), TIMESTEPS, len(data), TIMESTEPS).sum((1, 3))
    spent = {"fit": fitted - start, "ask": time.process_time() - fitted}
    return summed.numpy(), spent


if __name__ == "__main__":
    sys.exit(main())
