"""Train the bundled model and the classifier of its pictures.

    python -m headwater.evaluation.retraining.bundled --out DIR

Three stages, each resumable: the autoencoder (on pictures of its own split), the classifier
(`--stage judge`), and the denoiser with its text encoder (on the 2,000 training pictures and
nothing else).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.models import (
    EncodedData,
    save_pipeline,
    train,
)
from headwater.evaluation.retraining.trainer import FitOptions, fit
from headwater.scenes.classifier import AttributeClassifier
from headwater.scenes.dataset import Picture, pictures
from headwater.scenes.pipeline import new_pipeline
from headwater.scenes.vocabulary import ATTRIBUTES

AUTOENCODER_BATCH, CLASSIFIER_BATCH = 32, 64


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the pipeline is saved")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autoencoder-steps", type=int, default=3_000)
    parser.add_argument("--judge-steps", type=int, default=2_000)
    parser.add_argument("--stage", choices=("autoencoder", "judge", "denoiser"), default=None)
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    torch.manual_seed(given.seed)
    pipe = new_pipeline()
    work = given.out / "training"
    if given.stage in (None, "autoencoder"):
        stage = StageOptions(given.autoencoder_steps, given.device, given.seed)
        train_autoencoder(pipe, draw_pictures(pictures("autoencoder")), work, stage)
        pipe.vae.save_pretrained(given.out / "vae")
    else:
        pipe.vae = type(pipe.vae).from_pretrained(given.out / "vae")
    if given.stage in (None, "judge"):
        stage = StageOptions(given.judge_steps, given.device, given.seed)
        classifier = train_classifier(pipe, work, stage)
        save_file(classifier.state_dict(), given.out / "judge.safetensors")
    if given.stage in (None, "denoiser"):
        train_denoiser(pipe, work, CONFIG, given.device, given.seed)
        save_pipeline(pipe, given.out)


@dataclass(frozen=True)
class StageOptions:
    """How one part of the bundled model is trained."""

    steps: int
    device: str = "cpu"
    seed: int = 0

    @property
    def fit(self) -> FitOptions:
        """As the trainer takes it."""
        return FitOptions(self.steps, learning_rate=2e-3, seed=self.seed)


def train_autoencoder(pipe: Any, images: Tensor, work: Path, stage: StageOptions) -> None:
    """Absolute error, a little KL; then the scale that gives the latents unit variance.

    `images` are [n, 3, h, w] in [-1, 1]; the autoencoder's weights are trained on from where it is.
    """
    images = images.to(stage.device)
    vae = pipe.vae.to(stage.device)
    size = pipe.unet.config.sample_size
    shape = (AUTOENCODER_BATCH, pipe.unet.config.in_channels, size, size)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(images), (AUTOENCODER_BATCH,), generator=generator)
        return rows, torch.randn(shape, generator=generator)

    def loss(rows: Tensor, noise: Tensor) -> Tensor:
        x0 = images[rows]
        posterior = vae.encode(x0).latent_dist
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        mean, logvar = posterior.mean, posterior.logvar
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        error = decoded - x0
        return error.abs().mean() + (error**2).mean() + 5e-4 * kl

    fit(vae, draw, loss, work / "autoencoder.safetensors", stage.fit)
    std = encode(vae, images[:1000], scale=1.0).std().item()
    vae.register_to_config(scaling_factor=round(1 / std, 4))


def train_classifier(pipe: Any, work: Path, stage: StageOptions) -> AttributeClassifier:
    """On drawn pictures and on their reconstructions, since generated ones pass the decoder too."""
    sources = pictures("autoencoder") + pictures("unseen")
    drawn = draw_pictures(sources).to(stage.device)
    vae = pipe.vae.to(stage.device)
    images = torch.cat([drawn, decode(vae, encode(vae, drawn))])
    labels = {
        attribute: torch.tensor(
            [values.index(picture.scene.attributes[attribute]) for picture in sources * 2],
            device=stage.device,
        )
        for attribute, values in ATTRIBUTES.items()
    }
    classifier = AttributeClassifier().to(stage.device)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(images), (CLASSIFIER_BATCH,), generator=generator)
        return rows, torch.randn(CLASSIFIER_BATCH, *images.shape[1:], generator=generator)

    def loss(rows: Tensor, noise: Tensor) -> Tensor:
        logits = classifier(images[rows] + 0.05 * noise)
        losses = [F.cross_entropy(logits[a], labels[a][rows]) for a in ATTRIBUTES]
        return torch.stack(losses).sum()

    fit(classifier, draw, loss, work / "judge.safetensors", stage.fit)
    return classifier.cpu()


# With even weights, colour, style and background came within 3,500 steps (of a schedule of 8,000)
# and objects hardly at all: their outline is settled at high noise, where the plain loss is small.
CONFIG = ModelConfig(
    phases=(
        Phase(steps=8_000, stop=3_500, batch=64),
        Phase(steps=12_000, weight="shapes-first", name="denoiser-shapes"),
    )
)


def train_denoiser(pipe: Any, work: Path, config: ModelConfig, device: str, seed: int) -> None:
    """Noise prediction, UNet and text encoder together, phase after phase."""
    shown = pictures("train")
    latents = encode(pipe.vae.to(device), draw_pictures(shown).to(device))
    captions = [[picture.caption] for picture in shown]
    train(pipe, EncodedData(latents, captions), config, work, seed=seed, device=device)


def draw_pictures(sources: list[Picture]) -> Tensor:
    """Draw the pictures: [n, 3, 64, 64] in [-1, 1]."""
    return stack_images([picture.draw() for picture in sources])


def stack_images(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as numbers: [n, 3, h, w] in [-1, 1]."""
    stack = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


@torch.no_grad()
def encode(vae: Any, images: Tensor, scale: float | None = None) -> Tensor:
    """The posterior means of the pictures' latents, scaled to unit variance."""
    scale = vae.config.scaling_factor if scale is None else scale
    return torch.cat([vae.encode(part).latent_dist.mean * scale for part in images.split(100)])


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Latents back to pictures in [-1, 1]."""
    scale = vae.config.scaling_factor
    parts = [vae.decode(part / scale).sample for part in latents.split(100)]
    return torch.cat(parts).clamp(-1, 1)


if __name__ == "__main__":
    main()
