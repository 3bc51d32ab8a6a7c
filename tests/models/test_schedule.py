"""The algebra of the schedule, in float64, and what it refuses."""

import pytest
import torch

from headwater.errors import ModelError, ParameterError
from headwater.models.schedule import PREDICTIONS, Schedule

ALPHA_BAR = torch.linspace(0.999, 0.01, 20)
# What a network that is right predicts, of x0, eps, a and s.
TARGETS = {
    "epsilon": lambda x0, eps, a, s: eps,
    "v_prediction": lambda x0, eps, a, s: a * eps - s * x0,
    "sample": lambda x0, eps, a, s: x0,
}


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("t", [0, 7, 19])
def test_a_right_prediction_gives_back_noise_and_picture(kind, t):
    schedule = Schedule(ALPHA_BAR, kind)
    x0, eps = torch.randn(2, 2, 3, 4, 4).double()
    xt = schedule.noise(x0, eps, t)
    out = TARGETS[kind](x0, eps, *schedule.signal_noise(t))
    torch.testing.assert_close(schedule.eps(out, xt, t), eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.clean(xt, t, eps), x0, rtol=1e-9, atol=1e-9)


def test_pure_noise_has_a_floor():
    schedule = Schedule(torch.tensor([0.5, 0.0]), "epsilon")
    assert len(schedule) == 2 and schedule.alpha_bar[1].item() == 2**-24


def test_timesteps_end_with_the_noisiest():
    assert Schedule(ALPHA_BAR, "epsilon").evenly_spaced(4) == [4, 9, 14, 19]
    with pytest.raises(ParameterError, match="--timesteps 21 must lie between 1 and 20"):
        Schedule(ALPHA_BAR, "epsilon").evenly_spaced(21)


def test_other_predictions_are_refused():
    with pytest.raises(ModelError, match="prediction type 'flow' is not one of epsilon, v_pred"):
        Schedule(ALPHA_BAR, "flow")
