"""What is measured of a retrained model, so that scores can be held against it.

All models of a study see the same noise, timesteps and starting points: common random numbers, so
that outputs differ by what the models learned and not by luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.features.batch import Batch
from headwater.features.objectives import Objective, image_objectives
from headwater.features.spec import ProbeSpec, Side
from headwater.models.denoiser import Denoiser
from headwater.models.patches import captions_kept, frozen
from headwater.models.sampling import draw_latents, seeded_noise
from headwater.models.schedule import evenly_spaced

_NOISED = Side("noising", "dsm")
BATCH = 50


@dataclass(frozen=True)
class NoiseSpec:
    """Under which noise a loss is measured (das.txt F.2 has 3 draws).

    Attributes:
        timesteps: so many, evenly spaced, or these.
        draws: of each timestep.
    """

    timesteps: int | tuple[int, ...] = 10
    draws: int = 3
    seed: int = 0

    def steps(self, train_timesteps: int) -> Sequence[int]:
        """The timesteps, for a model of so many."""
        if isinstance(self.timesteps, int):
            return evenly_spaced(self.timesteps, train_timesteps)
        return self.timesteps


@dataclass(frozen=True)
class SamplerOptions:
    """How pictures are made, by DDIM."""

    steps: int = 20
    guidance: float = 3.0


NOISE, SAMPLER = NoiseSpec(), SamplerOptions()


def denoising_losses(
    denoiser: Denoiser,
    x0: Float[Tensor, "n c h w"],
    captions: Sequence[str],
    noise: NoiseSpec = NOISE,
    rows: Sequence[int] | None = None,
) -> Float[Tensor, " n"]:
    """The mean squared error of the output for each picture, over timesteps and draws.

    The noise belongs to the row, the timestep and the draw.

    Args:
        rows: of the pictures, if they are some of many.
    """
    x0 = x0.to(denoiser.device, denoiser.latent_dtype)
    network, losses = denoiser.network, []
    ids = list(map(str, range(len(x0)) if rows is None else rows))
    timesteps = noise.steps(len(denoiser.schedule))
    for start in range(0, len(x0), BATCH):
        part = slice(start, start + BATCH)
        condition = denoiser.encode_captions(captions[part])
        batch, spec = (
            Batch(x0[part], condition, ids[part]),
            ProbeSpec(timesteps, noise.seed, noise.draws),
        )
        with frozen(network), captions_kept(denoiser), torch.inference_mode():
            objectives = image_objectives(denoiser, _NOISED, batch, spec)
            losses.append(torch.stack([_residual(each) for each in objectives]).mean(0).cpu())
    return torch.cat(losses)


def _residual(objective: Objective) -> Tensor:
    assert objective.residual is not None, "noising knows its noise"
    return objective.residual


@torch.no_grad()
def samples(
    denoiser: Denoiser,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    sampler: SamplerOptions = SAMPLER,
) -> Float[Tensor, "n c h w"]:
    """Latents of a picture for each prompt, made by DDIM from noise that belongs to its seed.

    Args:
        seeds: one for each prompt; default its position.
    """
    seeds = range(len(prompts)) if seeds is None else seeds
    latents = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        noise = starting_noise(denoiser, seeds[start : start + BATCH])
        x0 = draw_latents(denoiser, part, noise, steps=sampler.steps, guidance=sampler.guidance)
        latents.append(x0.cpu())
    return torch.cat(latents)


def starting_noise(denoiser: Denoiser, seeds: Sequence[int]) -> Float[Tensor, "n c h w"]:
    """What a picture of each seed begins from, for all models of this latent shape."""
    return torch.stack([seeded_noise(denoiser.latent_shape, "evaluation", seed) for seed in seeds])
