"""What is measured of a model retrained on some of the scenes: three outputs for each concept.

- `losses`: the denoising loss of held-out pictures, captioned in full;
- `without NAME`: the same with one attribute left out of the captions. The loss without a concept's
  word minus that with it is the word's *contribution*;
- `rates`: how much of a concept the judge sees in samples of prompts that name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.evaluation.ground_truth.classifiers import ScenesJudge
from headwater.evaluation.retraining.outputs import denoising_losses, samples
from headwater.evaluation.retraining.retrain import Measured
from headwater.models.denoiser import Denoiser
from headwater.scenes.dataset import Picture, describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

CONCEPTS = tuple(value for values in ATTRIBUTES.values() for value in values)


@dataclass(frozen=True)
class Size:
    """How much is measured: pictures held out, prompts sampled, timesteps and draws of noise."""

    pictures: int = 150
    prompts: int = 240
    timesteps: int = 10
    draws: int = 2


def measure(denoiser: Denoiser, size: Size | None = None) -> Measured:
    """The outputs of one model, as lists in the order of `held_out` and of `CONCEPTS`."""
    size = size or Size()
    shown = held_out(size)
    x0 = latents(size)

    def losses(without: str | None = None) -> list[float]:
        captions = [said(picture, without) for picture in shown]
        found = denoising_losses(denoiser, x0, captions, timesteps=size.timesteps, draws=size.draws)
        return rounded(found)

    prompts = [said(picture) for picture in prompted(size)]
    made = samples(denoiser, prompts)
    with torch.no_grad():
        drawn = torch.cat([denoiser.pixels(part.to(denoiser.device)) for part in made.split(50)])
    return {
        "losses": losses(),
        **{f"without {name}": losses(name) for name in ATTRIBUTES},
        "rates": rounded(rates(drawn.cpu(), size)),
    }


def facts(size: Size | None = None) -> dict[str, Any]:
    """What is measured, for the key of a study."""
    return {"scenes": 1, **vars(size or Size())}


def held_out(size: Size) -> list[Picture]:
    """Pictures that no model is trained on."""
    return pictures("validation")[: size.pictures]


def prompted(size: Size) -> list[Picture]:
    """Pictures whose full captions are the prompts; they show each concept about equally often."""
    return pictures("train")[-size.prompts :]


def said(picture: Picture, without: str | None = None) -> str:
    """The picture's full caption, or that without one attribute."""
    words = {name: getattr(picture.scene, name) for name in ATTRIBUTES if name != without}
    return describe(**words)


@cache
def latents(size: Size) -> Float[Tensor, "n c h w"]:
    """Of the pictures held out; all models of the scenes share one autoencoder."""
    encoder = Denoiser.load("scenes", "cpu")
    images = [picture.draw() for picture in held_out(size)]
    return torch.cat([encoder.encode_images(images[i : i + 50]) for i in range(0, len(images), 50)])


def rates(drawn: Float[Tensor, "n 3 h w"], size: Size) -> Float[Tensor, " q"]:
    """Mean probability that the judge gives a concept in pictures whose prompt names it."""
    seen = ScenesJudge()(drawn).rates
    named = torch.tensor([[p.shows(word) for word in CONCEPTS] for p in prompted(size)])
    return (seen * named).sum(0) / named.sum(0)


def rounded(values: Tensor) -> list[float]:
    """As short as their noise allows."""
    return [float(f"{value:.7g}") for value in values.tolist()]


# --- outputs by concept ---------------------------------------------------------------------------


def by_concept(measured: Measured, size: Size | None = None) -> dict[str, Float[np.ndarray, " q"]]:
    """Three outputs for each of `CONCEPTS`, all as losses: lower is more of the concept."""
    shown = held_out(size or Size())
    losses = np.array(measured["losses"])
    found = {"loss": [], "contribution": []}
    for attribute, values in ATTRIBUTES.items():
        gained = losses - np.array(measured[f"without {attribute}"])
        for value in values:
            of = np.array([getattr(p.scene, attribute) == value for p in shown])
            found["loss"].append(losses[of].mean())
            found["contribution"].append(gained[of].mean())
    rate = -np.array(measured["rates"])
    return {**{name: np.array(values) for name, values in found.items()}, "rate": rate}
