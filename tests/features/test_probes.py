"""Paths against diffusers' own samplers, and against a denoiser whose answer is known exactly."""

import pytest
import torch
from diffusers import DDIMScheduler

from headwater.errors import ParameterError
from headwater.features import probes
from headwater.features.batch import Batch
from headwater.features.spec import ProbeSpec
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import sample
from headwater.models.schedule import evenly_spaced, preserving
from headwater.scenes.pipeline import new_scheduler


class Gaussian(Denoiser):
    """The exact denoiser of x0 ~ N(0, spread^2): eps = sqrt(1-a) xt / (a spread^2 + 1 - a)."""

    def __init__(self, spread):
        self.spread = spread
        self.schedule = preserving(new_scheduler().alphas_cumprod, "epsilon")

    def predict(self, xt, t, condition):
        a = self.schedule.alpha_bar[t].item()
        return (1 - a) ** 0.5 * xt / (a * self.spread**2 + 1 - a)


def test_timesteps_are_evenly_spaced():
    assert evenly_spaced(10) == [99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
    assert evenly_spaced(1) == [999]
    assert evenly_spaced(1000) == list(range(1000))
    for count in (0, 1001):
        with pytest.raises(ParameterError):
            evenly_spaced(count)


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_inversion_follows_the_exact_flow(spread):
    """The probability flow of a Gaussian scales x0 by std(xt)/std(x0), which 500 steps reach."""
    denoiser = Gaussian(spread)
    x0 = spread * torch.randn(4, 1, 2, 2)
    steps = evenly_spaced(500)
    for probe in probes.inversion(denoiser, Batch(x0, None), ProbeSpec(steps)):
        a = denoiser.schedule.alpha_bar[probe.t].float()
        exact = x0 * (a * spread**2 + 1 - a).sqrt() / spread
        torch.testing.assert_close(probe.xt.detach(), exact, rtol=0.02, atol=0.01)


def test_generation_undoes_inversion():
    denoiser = Gaussian(0.7)
    x0 = 0.7 * torch.randn(4, 1, 2, 2)
    steps = evenly_spaced(500)
    *_, last = probes.inversion(denoiser, Batch(x0, None), ProbeSpec(steps))
    *_, first = probes.generation(denoiser, last.xt.detach(), None, steps)
    back = denoiser.schedule.clean(first.out.detach(), first.xt.detach(), first.t)
    torch.testing.assert_close(back, x0, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sampling_equals_the_pipeline(tiny_model, guidance):
    """Our DDIM loop is diffusers' own, with trailing timesteps and a last step to x0hat."""
    denoiser = Denoiser.load(tiny_model)
    pipe = denoiser.pipe
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *denoiser.latent_shape)
    theirs = pipe(
        "a red star",
        num_inference_steps=8,
        guidance_scale=guidance,
        latents=noise,
        output_type="latent",
    ).images
    condition, free = (denoiser.encode_captions([text]) for text in ("a red star", ""))
    ours = sample(denoiser, noise, condition, free, steps=8, guidance=guidance)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_generation_visits_the_sampling_trajectory(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    noise = torch.randn(2, *denoiser.latent_shape)
    condition = denoiser.encode_captions(["a red star", "a fish"])
    *_, last = probes.generation(denoiser, noise, condition, evenly_spaced(5))
    x0 = denoiser.schedule.clean(last.out.detach(), last.xt.detach(), last.t)
    torch.testing.assert_close(x0, sample(denoiser, noise, condition, steps=5))


def test_noise_belongs_to_the_sample_and_nothing_else():
    denoiser = Gaussian(1.0)
    x0 = torch.randn(3, 1, 2, 2)

    def noises(rows, seed=0):
        ids = [f"id-{row}" for row in rows]
        path = probes.noising(
            denoiser, Batch(x0[rows], None, ids), ProbeSpec([99, 999], seed, draws=2)
        )
        return torch.stack([probe.noise for probe in path], 1)

    together = noises([0, 1, 2])
    assert torch.equal(noises([2, 0]), together[[2, 0]])
    assert not torch.equal(noises([0], seed=1), together[[0]])
    flat = together.flatten(2).transpose(0, 1).reshape(4, -1)
    assert len({tuple(row) for row in flat.tolist()}) == 4  # each (t, draw) its own


def test_noised_states_carry_their_timestep():
    denoiser = Gaussian(1.0)
    x0 = torch.randn(2, 1, 2, 2)
    for probe in probes.noising(denoiser, Batch(x0, None, ["a", "b"]), ProbeSpec([0, 499, 999])):
        a = new_scheduler().alphas_cumprod[probe.t]
        torch.testing.assert_close(probe.xt.detach(), a.sqrt() * x0 + (1 - a).sqrt() * probe.noise)
