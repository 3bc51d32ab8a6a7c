"""What a pass over images sums up, against autograd and the network's own Jacobian."""

import pytest
import torch

from headwater import Denoiser
from headwater.curvature.passes import TARGETS, layer_calls, looks
from headwater.features import guidance
from headwater.features.batch import Batch
from headwater.features.objectives import image_objectives
from headwater.features.probes import Probe
from headwater.gradients.layers import per_sample
from headwater.index.config import plan
from headwater.index.machines import without_projection


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model, dtype=torch.float64)


@pytest.fixture(scope="module")
def batch(denoiser):
    x0 = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    condition = denoiser.encode_captions(["a red star", "a fish", ""])
    return Batch(x0.double(), condition, [str(i) for i in range(3)])


def machine_of(denoiser, **options):
    options = {"parameters": r"down_blocks\.0.*to_q", "timesteps": 1, "dim": 8, **options}
    return without_projection(denoiser, plan(denoiser, method="ekfac", **options))


def test_looks_share_the_timesteps_out(denoiser):
    ten = machine_of(denoiser, timesteps=10)
    found = looks(ten)
    assert [look.first for look in found] == [0, 1, 2, 3, 4] and found[0].count == 5
    assert sorted(t for look in found for t in look.spec.timesteps) == sorted(ten.timesteps)
    assert len(looks(machine_of(denoiser))) == 1


@pytest.mark.parametrize("targets", ["model", "data"])
def test_a_row_is_the_vector_pulled_back_and_weighed_as_training_weighs_it(
    denoiser, batch, targets
):
    """J^T delta by autograd on the weights: of the data's targets the gradient of the loss."""
    machine = machine_of(denoiser, loss_weights="min-snr", timesteps=3)
    look = looks(machine)[0]
    weights = [p for layer in machine.layers.values() for p in layer.parameters()]
    found = list(layer_calls(machine, batch, look, targets))
    per_probe = len(machine.layers)
    objectives = image_objectives(denoiser, TARGETS[targets], batch, look.spec)
    for number, one in enumerate(objectives):
        calls = found[number * per_probe : (number + 1) * per_probe]
        ours = torch.cat([per_sample(machine.layers[name], each) for name, each in calls], 1)
        for row in range(3):
            target = (one.out - one.delta)[row].detach()
            loss = (one.out[row] - target).square().sum() / 2
            truth = torch.autograd.grad(loss, weights, retain_graph=True)
            truth = torch.cat([g.flatten() for g in truth]) * look.weights[number] ** 0.5
            assert (ours[row] - truth).norm() <= 1e-9 * truth.norm()


def test_targets_of_the_model_are_uncorrelated_and_of_unit_size(denoiser):
    """E[v v^T] = I, so that J^T v has the Gauss-Newton matrix J^T J for its second moment."""
    signs = torch.stack([
        guidance.random(denoiser, probe_named(str(number)), torch.zeros(1)).flatten()
        for number in range(4000)
    ])  # fmt: skip
    found = signs.T @ signs / len(signs)
    assert (found - torch.eye(len(found))).abs().max() < 5.5 / len(signs) ** 0.5
    assert signs.mean(0).abs().max() < 5 / len(signs) ** 0.5


def probe_named(key):
    x = torch.zeros(1, 2, 4, 4)
    return Probe(x, 0, x, None, [key])
