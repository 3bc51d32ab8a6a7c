"""The algebra of the schedule, in float64, against what diffusers' schedulers do."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from headwater.errors import ModelError, ParameterError
from headwater.models.schedule import TARGETS, Schedule, flow, preserving

ALPHA_BAR = torch.linspace(0.999, 0.01, 20)
# What a network that is right predicts, of x0, noise, a and s.
RIGHT = {
    "epsilon": lambda x0, e, a, s: e,
    "v_prediction": lambda x0, e, a, s: a * e - s * x0,
    "sample": lambda x0, e, a, s: x0,
    "flow": lambda x0, e, a, s: e - x0,
}


def schedule_of(kind: str) -> Schedule:
    if kind == "flow":
        return flow(torch.linspace(0.05, 1, 20))
    return preserving(ALPHA_BAR, kind)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("t", [0, 7, 19])
def test_a_right_output_gives_back_noise_and_picture(kind, t):
    schedule = schedule_of(kind)
    x0, noise = torch.randn(2, 2, 3, 4, 4).double()
    (a, s), xt = schedule.rates(t), schedule.noised(x0, noise, t)
    torch.testing.assert_close(xt, a * x0 + s * noise)
    out = RIGHT[kind](x0, noise, a, s)
    torch.testing.assert_close(schedule.asked(x0, noise, t), out)
    torch.testing.assert_close(schedule.noise(out, xt, t), noise, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.clean(out, xt, t), x0, rtol=1e-9, atol=1e-9)
    then = schedule.moved(out, xt, t, 3)
    torch.testing.assert_close(then, schedule.noised(x0, noise, 3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", TARGETS)
def test_the_share_of_signal(kind):
    schedule = schedule_of(kind)
    ours = schedule.alpha_bar
    a, s = (torch.tensor([schedule.rates(t)[i] for t in range(20)]).double() for i in (0, 1))
    torch.testing.assert_close(ours / (1 - ours), (a / s).square(), rtol=1e-5, atol=1e-9)


def test_a_flow_moves_as_eulers_method_does():
    """Step by step from noise, against diffusers' scheduler on the same outputs."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    schedule = flow(torch.linspace(0.001, 1, 1000))
    ours = theirs = torch.randn(2, 4, 8, 8)
    for t, following, step in zip(
        (999, 749, 499), (749, 499, 249), scheduler.timesteps, strict=False
    ):
        out = torch.randn(2, 4, 8, 8)
        ours = schedule.moved(out, ours, t, following)
        theirs = scheduler.step(out, step, theirs).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_pure_noise_has_a_floor():
    schedule = preserving(torch.tensor([0.5, 0.0]), "epsilon")
    assert len(schedule) == 2 and schedule.rates(1)[0] == 2**-12


def test_timesteps_end_with_the_noisiest():
    assert preserving(ALPHA_BAR, "epsilon").evenly_spaced(4) == [4, 9, 14, 19]
    with pytest.raises(ParameterError, match="--timesteps 21 must lie between 1 and 20"):
        preserving(ALPHA_BAR, "epsilon").evenly_spaced(21)


def test_other_predictions_are_refused():
    with pytest.raises(ModelError, match="prediction type 'score' is not one of epsilon, v_pred"):
        preserving(ALPHA_BAR, "score")
