"""What is measured of a model retrained on some of the scenes: three outputs for each concept.

- `losses`: the denoising loss of held-out pictures, captioned in full;
- `without NAME`: the same with one attribute left out of the captions. The loss without a concept's
  word minus that with it is the word's *contribution*;
- `rates`: how much of a concept the classifier sees in samples of prompts that name it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.evaluation.ground_truth.classifiers import ScenesClassifier
from headwater.evaluation.retraining.outputs import NoiseSpec, denoising_losses, samples
from headwater.evaluation.retraining.retrain import Measured
from headwater.models.denoiser import Denoiser
from headwater.scenes.dataset import Picture, describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

CONCEPTS = tuple(value for values in ATTRIBUTES.values() for value in values)


@dataclass(frozen=True)
class SceneMeasure:
    """How much is measured: pictures held out, prompts sampled, timesteps and draws of noise."""

    pictures: int = 150
    prompts: int = 240
    timesteps: int = 10
    draws: int = 2

    def facts(self) -> dict[str, Any]:
        """What is measured, for the key of a study."""
        return {
            "scenes": 1,
            "pictures": self.pictures,
            "prompts": self.prompts,
            "timesteps": self.timesteps,
            "draws": self.draws,
        }

    def held_out(self) -> list[Picture]:
        """Pictures that no model is trained on."""
        return pictures("validation")[: self.pictures]

    def prompted(self) -> list[Picture]:
        """Pictures whose full captions are the prompts; each concept is in about as many."""
        return pictures("train")[-self.prompts :]

    def __call__(self, denoiser: Denoiser) -> Measured:
        """The outputs of one model, as lists in the order of `held_out` and of `CONCEPTS`."""
        held_out, x0 = self.held_out(), encode_held_out(self)
        noise = NoiseSpec(self.timesteps, self.draws)

        def losses(without: str | None = None) -> list[float]:
            captions = [full_caption(picture, without) for picture in held_out]
            return round_values(denoising_losses(denoiser, x0, captions, noise))

        latents = samples(denoiser, [full_caption(picture) for picture in self.prompted()])
        with torch.no_grad():
            parts = [denoiser.pixels(part.to(denoiser.device)) for part in latents.split(50)]
        return {
            "losses": losses(),
            **{f"without {name}": losses(name) for name in ATTRIBUTES},
            "rates": round_values(concept_rates(torch.cat(parts).cpu(), self.prompted())),
        }


def full_caption(picture: Picture, without: str | None = None) -> str:
    """The picture's full caption, or that without one attribute."""
    named = {name: value for name, value in picture.scene.attributes.items() if name != without}
    return describe(**named)


@cache
def encode_held_out(measure: SceneMeasure) -> Float[Tensor, "n c h w"]:
    """Latents of the pictures held out; all models of the scenes share one autoencoder."""
    encoder = Denoiser.load("scenes", "cpu")
    images = [picture.draw() for picture in measure.held_out()]
    return torch.cat([encoder.encode_images(images[i : i + 50]) for i in range(0, len(images), 50)])


def concept_rates(
    drawn: Float[Tensor, "n 3 h w"], prompted: Sequence[Picture]
) -> Float[Tensor, " q"]:
    """Mean probability that the classifier gives a concept in pictures whose prompt names it."""
    rates = ScenesClassifier()(drawn).rates
    named = torch.tensor([[p.shows(word) for word in CONCEPTS] for p in prompted])
    return (rates * named).sum(0) / named.sum(0)


def round_values(values: Tensor) -> list[float]:
    """As short as their noise allows."""
    return [float(f"{value:.7g}") for value in values.tolist()]


# --- outputs by concept ---------------------------------------------------------------------------


MEASURE = SceneMeasure()  # what the experiments' models are measured by


def by_concept(
    measured: Measured, measure: SceneMeasure = MEASURE, some: slice = slice(None)
) -> dict[str, Float[np.ndarray, " q"]]:
    """Three outputs for each of `CONCEPTS`, all as losses: lower is more of the concept.

    Args:
        some: of which of the pictures held out; the rate is of none of them.
    """
    held_out = measure.held_out()[some]
    losses = np.array(measured["losses"])[some]
    outputs = {"loss": [], "contribution": []}
    for attribute, values in ATTRIBUTES.items():
        gained = losses - np.array(measured[f"without {attribute}"])[some]
        for value in values:
            rows = np.array([p.scene.attributes[attribute] == value for p in held_out])
            outputs["loss"].append(losses[rows].mean())
            outputs["contribution"].append(gained[rows].mean())
    rate = -np.array(measured["rates"])
    return {**{name: np.array(values) for name, values in outputs.items()}, "rate": rate}
