"""What is measured of a retrained model, so that scores can be held against it.

All models of a study see the same noise, timesteps and starting points: common random numbers, so
that outputs differ by what the models learned and not by luck.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.features.batch import Batch
from headwater.features.objectives import Objective, image_objectives
from headwater.features.spec import ProbeSpec, Side
from headwater.models.denoiser import Denoiser
from headwater.models.patches import captions_kept, frozen
from headwater.models.sampling import sample, seeded_noise
from headwater.models.schedule import evenly_spaced

_NOISED = Side("noising", "dsm")
BATCH = 50


def denoising_losses(
    denoiser: Denoiser,
    x0: Float[Tensor, "n c h w"],
    captions: Sequence[str],
    *,
    timesteps: int | Sequence[int] = 10,
    draws: int = 3,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> Float[Tensor, " n"]:
    """The mean squared error of each picture's predicted noise, over timesteps and draws.

    The noise belongs to the row, the timestep and the draw (das.txt F.2 has 3 draws).

    Args:
        timesteps: so many, evenly spaced, or these.
        rows: of the pictures, if they are some of many.
    """
    if isinstance(timesteps, int):
        timesteps = evenly_spaced(timesteps, len(denoiser.alpha_bar))
    x0 = x0.to(denoiser.device, denoiser.latent_dtype)
    network, found = denoiser.network, []
    of = list(map(str, range(len(x0)) if rows is None else rows))
    for start in range(0, len(x0), BATCH):
        part = slice(start, start + BATCH)
        condition = denoiser.encode_captions(captions[part])
        batch, spec = Batch(x0[part], condition, of[part]), ProbeSpec(timesteps, seed, draws)
        with frozen(network), captions_kept(denoiser), torch.inference_mode():
            asked = image_objectives(denoiser, _NOISED, batch, spec)
            found.append(torch.stack([_residual(each) for each in asked]).mean(0).cpu())
    return torch.cat(found)


def _residual(asked: Objective) -> Tensor:
    assert asked.residual is not None, "noising knows its noise"
    return asked.residual


@torch.no_grad()
def samples(
    denoiser: Denoiser,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    steps: int = 20,
    guidance: float = 3.0,
) -> Float[Tensor, "n c h w"]:
    """Latents of a picture for each prompt, made by DDIM from noise that belongs to its seed.

    Args:
        seeds: one for each prompt; default its position.
    """
    seeds = range(len(prompts)) if seeds is None else seeds
    made = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        noise = [
            seeded_noise(denoiser.latent_shape, "evaluation", seed)
            for seed in seeds[start : start + BATCH]
        ]
        begun = torch.stack(noise).to(denoiser.device, denoiser.latent_dtype)
        condition = denoiser.encode_captions(part)
        empty = denoiser.encode_captions([""] * len(part))
        made.append(sample(denoiser, begun, condition, empty, steps=steps, guidance=guidance).cpu())
    return torch.cat(made)
