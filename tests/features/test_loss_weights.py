"""Weights of timesteps against the formulas of their papers, and in rows."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from support.exact_gradients import NOISED, unprojected

from headwater import Denoiser
from headwater.errors import ParameterError
from headwater.features.batch import Batch
from headwater.features.loss_weights import LOSS_WEIGHTS, loss_weights
from headwater.features.probes import noising
from headwater.features.spec import ProbeSpec
from headwater.index.config import plan
from headwater.index.machines import extractor
from headwater.models.schedule import flow, preserving
from headwater.scenes.pipeline import new_scheduler

STEPS = (99, 299, 499, 699, 899)


def test_min_snr_is_that_of_the_paper():
    """min(SNR, 5) / SNR where noise is predicted, / (SNR + 1) of v, as it is of the sample."""
    alpha_bar = new_scheduler().alphas_cumprod.double()
    snr = alpha_bar / (1 - alpha_bar)
    capped = snr.clamp_max(5)
    exact = {"epsilon": capped / snr, "v_prediction": capped / (snr + 1), "sample": capped}
    for kind, weights in exact.items():
        ours = loss_weights("min-snr", preserving(alpha_bar, kind), STEPS)
        chosen = weights[list(STEPS)]
        np.testing.assert_allclose(ours, chosen / chosen.mean(), rtol=1e-4)


def test_logit_normal_is_the_density_of_what_is_drawn():
    """The logit of a timestep drawn is normal."""
    schedule = flow(torch.linspace(0.001, 1, 1000))
    ours = loss_weights("logit-normal", schedule, range(1000))
    logits = [math.log(u / (1 - u)) for u in (np.arange(1000) + 0.5) / 1000]
    below = np.cumsum(ours) / 1000
    np.testing.assert_allclose(below, stats.norm.cdf(logits), atol=2e-3)


@pytest.mark.parametrize("name", LOSS_WEIGHTS)
def test_weights_have_mean_one(name):
    weights = loss_weights(name, preserving(new_scheduler().alphas_cumprod, "epsilon"), STEPS)
    assert sum(weights) == pytest.approx(len(STEPS)) and min(weights) > 0
    assert (len(set(weights)) == 1) == (name == "uniform")


@pytest.mark.parametrize("name", LOSS_WEIGHTS)
def test_a_row_is_the_weighted_mean_of_its_probes(tiny_model, name):
    """Two draws at each timestep, each with its timestep's weight."""
    denoiser = Denoiser.load(tiny_model, dtype=torch.float64)
    recipe = plan(
        denoiser, method="gradient-cosine", parameters="attn2", timesteps=3, draws=2,
        projection="identity", loss_weights=name,
    )  # fmt: skip
    x0, condition = torch.randn(2, 4, 8, 8).double(), denoiser.encode_captions(["a star", "a fish"])
    batch = Batch(x0, condition, ["a", "b"])
    ours = extractor(denoiser, recipe).train_rows(batch).features
    weights = loss_weights(name, denoiser.schedule, recipe.timesteps)
    machine = unprojected(denoiser, recipe.timesteps, "none", NOISED)
    probes = list(machine.probes(both_draws(denoiser, batch, recipe.timesteps)))
    assert len(probes) == 6
    exact = sum(w * probes[2 * i + d].features for i, w in enumerate(weights) for d in (0, 1)) / 6
    torch.testing.assert_close(ours, exact)


def both_draws(denoiser, batch, timesteps):
    for probe in noising(denoiser, batch, ProbeSpec(timesteps, draws=2)):
        yield probe.out, probe.out.detach() - probe.noise, None


def test_another_name_is_refused(tiny_model):
    with pytest.raises(ParameterError, match="--loss-weights 'snr' is not one of uniform, min-snr"):
        plan(Denoiser.load(tiny_model), loss_weights="snr")
