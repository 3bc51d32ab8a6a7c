"""ReTrack's target against loops over neighbours, for every kind of prediction."""

import math

import pytest
import torch

from headwater.attribution.scorers.unlearned.descent import Noised
from headwater.attribution.scorers.unlearned.redirection import nearest_outside, redirected
from headwater.features.batch import Batch
from headwater.models.schedule import flow, preserving

ALPHA_BAR = torch.tensor([0.9, 0.4])
SCHEDULES = {
    "noise": preserving(ALPHA_BAR, "epsilon"),
    "v": preserving(ALPHA_BAR, "v_prediction"),
    "sample": preserving(ALPHA_BAR, "sample"),
    "flow": flow([0.2, 0.7]),
}


def noised(schedule, t, count=3):
    random = torch.Generator().manual_seed(t)
    x0 = torch.randn(count, 2, 4, 4, generator=random).double()
    noise = torch.randn(x0.shape, generator=random).double()
    near = x0[:, None] + 0.3 * torch.randn(count, 5, 2, 4, 4, generator=random).double()
    batch = Batch(x0, None, [str(i) for i in range(count)])
    return Noised(range(count), t, schedule.noised(x0, noise, t), noise, batch), near


@pytest.mark.parametrize("cap", [0.05, 1.0, float("inf")])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_noise_that_leads_to_the_neighbours(kind, cap):
    """As the published code has it: a target of each neighbour, its noise cut off, weighed."""
    schedule = SCHEDULES[kind]
    for t in (0, 1):
        given, near = noised(schedule, t)
        ours = redirected(schedule, given, near, cap)
        a, s = schedule.rates(t)
        for i in range(3):
            xt, x0 = given.xt[i], given.batch.x0[i]
            powers = [-(xt - a * r).square().sum().item() / (2 * s * s) for r in near[i]]
            total = sum(math.exp(p - max(powers)) for p in powers)
            noise = torch.zeros_like(x0)
            for r, power in zip(near[i], powers, strict=True):
                away = (a / s) * (x0 - r)
                away = away * min(1.0, math.sqrt(2 * cap) / away.norm().item())
                share = math.exp(power - max(powers)) / total
                noise += share * ((xt - a * x0) / s + away)
            exact = schedule.asked((xt - s * noise) / a, noise, t)
            torch.testing.assert_close(ours[i], exact)


def test_one_neighbour_without_a_bound_is_predicted_in_its_stead():
    schedule = SCHEDULES["noise"]
    given, near = noised(schedule, 1)
    target = redirected(schedule, given, near[:, :1], float("inf"))
    torch.testing.assert_close(schedule.clean(target, given.xt, 1), near[:, 0])


def test_neighbours_are_the_nearest_outside():
    x0 = torch.tensor([0.0, 1.0, 5.0, 5.5, 9.0])[:, None]
    assert nearest_outside(x0, [1, 3], [0, 2, 4], 2).tolist() == [[0, 2], [2, 4]]
    assert nearest_outside(x0, [0], [1, 2], 10).tolist() == [[1, 2]]
