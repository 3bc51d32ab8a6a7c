"""What is asked at each probe: pairs of a prediction, on its graph, and a delta.

Each function joins a path of `probes` with a delta of `guidance`. Training images and queries
about images are the same function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from headwater.features import guidance, probes
from headwater.features.guidance import DELTAS, Reward, concept, preference
from headwater.features.probes import Probe, generation, inversion, noising
from headwater.features.spec import Side
from headwater.models.denoiser import Denoiser


class Asked(NamedTuple):
    """One probe's prediction, what is asked of it, and its mean squared error where it has one."""

    eps: Float[Tensor, "b c h w"]
    delta: Float[Tensor, "b c h w"]
    residual: Float[Tensor, " b"] | None = None


def about_images(
    denoiser: Denoiser,
    side: Side,
    x0: Float[Tensor, "b c h w"],
    condition: Float[Tensor, "b l e"] | None,
    timesteps: Sequence[int],
    *,
    ids: Sequence[str],
    seed: int = 0,
    draws: int = 1,
    inversion_guidance: float = 1.0,
    mask: Float[Tensor, "1 1 h w"] | None = None,
) -> Iterator[Asked]:
    """The side's delta at the side's probes of x0, inside the mask."""
    if side.path == "inversion":
        path = inversion(denoiser, x0, condition, timesteps, inversion_guidance)
    else:  # "noising", and "renoised", whose x0 is a step's x0hat
        path = noising(denoiser, x0, condition, timesteps, ids, seed, draws)
    for probe in path:
        delta = DELTAS[side.delta](denoiser, probe, x0)
        yield Asked(probe.eps, _inside(delta, mask), _residual(probe))


def about_prompt(
    denoiser: Denoiser,
    x0: Float[Tensor, "b c h w"],
    condition: Float[Tensor, "b l e"],
    empty: Float[Tensor, "b l e"],
    timesteps: Sequence[int],
    *,
    ids: Sequence[str],
    seed: int = 0,
    mask: Float[Tensor, "1 1 h w"] | None = None,
) -> Iterator[Asked]:
    """What a picture's prompt makes of it, inside the mask: the slider from no prompt to its own.

    The whole prompt is the concept, and the mask says which of it (Concept-TRAK section 3.2 with
    Journey-TRAK's section 5.4). At noised states of the picture: it may be a file.
    """
    for probe in noising(denoiser, x0, condition, timesteps, ids, seed):
        yield Asked(probe.eps, _inside(concept(denoiser, probe, None, empty), mask))


def about_concept(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c h w"],
    plus: Float[Tensor, "b l e"],
    minus: Float[Tensor, "b l e"],
    base: Float[Tensor, "b l e"] | None,
    timesteps: Sequence[int],
) -> Iterator[Asked]:
    """The concept slider along trajectories from `noise` under c (`base`, or c+ itself)."""
    path = generation(denoiser, noise, plus if base is None else base, timesteps)
    for probe in path:
        delta = concept(denoiser, probe, None if base is None else plus, minus)
        yield Asked(probe.eps, delta)


def about_contrast(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c h w"],
    plus: Float[Tensor, "b l e"],
    minus: Float[Tensor, "b l e"],
    base: Float[Tensor, "b l e"] | None,
    timesteps: Sequence[int],
) -> Iterator[Asked]:
    """D-TRAK's output under c+ less the same under c-, where `about_concept` asks the slider.

    ||eps(xt, c+)||^2 - ||eps(xt, c-)||^2, up to a positive constant, along trajectories from
    `noise` under c (`base`, or c+ itself): two probes at each timestep. Our own, from Zheng 2024
    (table 1) and Concept-TRAK (section 3.2). The two may be nearly equal: in half precision their
    difference has fewer digits than either.
    """
    for probe in generation(denoiser, noise, plus if base is None else base, timesteps):
        there = probe if base is None else probes.at(denoiser, probe, plus)
        yield Asked(there.eps, there.eps.detach())
        without = probes.at(denoiser, probe, minus)
        yield Asked(without.eps, -without.eps.detach())


def about_reward(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c h w"],
    condition: Float[Tensor, "b l e"] | None,
    reward: Reward,
    timesteps: Sequence[int],
) -> Iterator[Asked]:
    """The gradient of a reward of images along trajectories from `noise`."""
    for probe in generation(denoiser, noise, condition, timesteps):
        yield Asked(probe.eps, guidance.reward(denoiser, probe, reward))


def about_preference(
    denoiser: Denoiser,
    own: Float[Tensor, "b c h w"],
    other: Float[Tensor, "b c h w"],
    condition: Float[Tensor, "b l e"] | None,
    sign: int,
    timesteps: Sequence[int],
    inversion_guidance: float = 1.0,
) -> Iterator[Asked]:
    """One side of preference pairs, along the inversion of its images."""
    for probe in inversion(denoiser, own, condition, timesteps, inversion_guidance):
        yield Asked(probe.eps, preference(denoiser, probe, own, other, sign))


def _inside(delta: Tensor, mask: Tensor | None) -> Tensor:
    return delta if mask is None else delta * mask


def _residual(probe: Probe) -> Tensor | None:
    if probe.noise is None:
        return None
    return (probe.eps.detach() - probe.noise).square().flatten(1).mean(1)
