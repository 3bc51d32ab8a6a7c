"""Objectives: at each probe an output, on its graph, and the delta that is asked of it.

Each function joins a path of `probes` with a delta of `guidance`. Training images and queries
about images are the same function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from headwater.features import guidance, probes
from headwater.features.batch import Batch
from headwater.features.probes import Probe
from headwater.features.spec import ProbeSpec, Side
from headwater.models.condition import Condition
from headwater.models.denoiser import Denoiser

Mask = Float[Tensor, "1 1 h w"]


class Objective(NamedTuple):
    """One probe's output, what is asked of it, and its mean squared error where it has one."""

    out: Float[Tensor, "b c *f h w"]
    delta: Float[Tensor, "b c *f h w"]
    residual: Float[Tensor, " b"] | None = None


def image_objectives(
    denoiser: Denoiser, side: Side, batch: Batch, spec: ProbeSpec, mask: Mask | None = None
) -> Iterator[Objective]:
    """The side's delta at the side's probes of each image, inside the mask."""
    if side.path == "inversion":
        path = probes.inversion(denoiser, batch, spec)
    else:  # "noising", and "renoised", whose x0 is a step's x0hat
        path = probes.noising(denoiser, batch, spec)
    for probe in path:
        delta = guidance.DELTAS[side.delta](denoiser, probe, batch.x0)
        yield Objective(probe.out, _masked(delta, mask), _residual(denoiser, probe, batch.x0))


def prompt_objectives(
    denoiser: Denoiser,
    batch: Batch,
    empty: Condition,
    spec: ProbeSpec,
    mask: Mask | None = None,
) -> Iterator[Objective]:
    """What a picture's prompt makes of it, inside the mask: the slider from no prompt to its own.

    The whole prompt is the concept, and the mask says which of it (Concept-TRAK section 3.2 with
    Journey-TRAK's section 5.4). At noised states of the picture: it may be a file.
    """
    for probe in probes.noising(denoiser, batch, spec):
        delta = guidance.concept(denoiser, probe, None, empty)
        yield Objective(probe.out, _masked(delta, mask))


def concept_objectives(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c *f h w"],
    plus: Condition,
    minus: Condition,
    base: Condition | None,
    timesteps: Sequence[int],
) -> Iterator[Objective]:
    """The concept slider along trajectories from `noise` under c (`base`, or c+ itself)."""
    path = probes.generation(denoiser, noise, plus if base is None else base, timesteps)
    for probe in path:
        delta = guidance.concept(denoiser, probe, None if base is None else plus, minus)
        yield Objective(probe.out, delta)


def contrast_objectives(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c *f h w"],
    plus: Condition,
    minus: Condition,
    base: Condition | None,
    timesteps: Sequence[int],
) -> Iterator[Objective]:
    """D-TRAK's output under c+ less the same under c-, where `concept_objectives` asks the slider.

    ||out(xt, c+)||^2 - ||out(xt, c-)||^2, up to a positive constant, along trajectories from
    `noise` under c (`base`, or c+ itself): two probes at each timestep. Our own, from Zheng 2024
    (table 1) and Concept-TRAK (section 3.2). The two may be nearly equal: in half precision their
    difference has fewer digits than either.
    """
    for probe in probes.generation(denoiser, noise, plus if base is None else base, timesteps):
        with_concept = probe if base is None else probes.at(denoiser, probe, plus)
        yield Objective(with_concept.out, with_concept.out.detach())
        without = probes.at(denoiser, probe, minus)
        yield Objective(without.out, -without.out.detach())


def contribution_objectives(
    denoiser: Denoiser, batch: Batch, minus: Condition, spec: ProbeSpec
) -> Iterator[Objective]:
    """The loss under the batch's prompts less the loss without the concept, at the same xt.

    Minus what the words gain: two probes at each timestep.
    """
    for probe in probes.noising(denoiser, batch, spec):
        yield Objective(probe.out, guidance.dsm(denoiser, probe, batch.x0))
        without = probes.at(denoiser, probe, minus)
        yield Objective(without.out, -guidance.dsm(denoiser, without, batch.x0))


def reward_objectives(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c *f h w"],
    condition: Condition | None,
    reward: guidance.Reward,
    timesteps: Sequence[int],
) -> Iterator[Objective]:
    """The gradient of a reward of images along trajectories from `noise`."""
    for probe in probes.generation(denoiser, noise, condition, timesteps):
        yield Objective(probe.out, guidance.reward(denoiser, probe, reward))


def preference_objectives(
    denoiser: Denoiser,
    own: Batch,
    other: Float[Tensor, "b c *f h w"],
    sign: int,
    spec: ProbeSpec,
) -> Iterator[Objective]:
    """One side of preference pairs, along the inversion of its images."""
    for probe in probes.inversion(denoiser, own, spec):
        yield Objective(probe.out, guidance.preference(denoiser, probe, own.x0, other, sign))


def _masked(delta: Tensor, mask: Tensor | None) -> Tensor:
    return delta if mask is None else delta * mask


def _residual(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Tensor | None:
    if probe.noise is None:
        return None
    target = denoiser.schedule.asked(x0, probe.noise, probe.t)
    return (probe.out.detach() - target).square().flatten(1).mean(1)
