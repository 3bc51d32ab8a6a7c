"""Feature rows against the losses they are gradients of, in float64, and against rearrangement."""

import pytest
import torch

from headwater import Denoiser
from headwater.features import Extractor
from headwater.methods import METHODS, Side
from headwater.parameters import select
from headwater.probes import seeded_noise
from headwater.projection import Sketch
from headwater.recipe import extractor, plan
from headwater.scenes.data import pictures

CAPTIONS = ["a red star", "a fish on a wavy background", "a shape"]


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model, dtype=torch.float64)


INVERTED, NOISED = Side("inversion", "dps"), Side("noising", "dsm")


def unprojected(denoiser, timesteps, normalise, train=INVERTED):
    """An extractor whose sketch keeps every coordinate in its own place."""
    layers = select(denoiser.network, "attn2")
    buckets, start = {}, 0
    for name, layer in layers.items():
        size = sum(p.numel() for p in layer.parameters())
        buckets[name] = torch.arange(start, start + size)
        start += size
    signs = {name: torch.ones(len(bucket)) for name, bucket in buckets.items()}
    kept = Sketch(start, buckets, signs)
    return Extractor(denoiser, layers, kept, train, timesteps, normalise, 0)


def gradient(denoiser, loss):
    """The exact gradient of a loss, in the order of `unprojected`."""
    weights = [p for m in select(denoiser.network, "attn2").values() for p in m.parameters()]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


def dps_loss(denoiser, x0, condition, xt, t):
    """||sg[eps + sqrt(1-abar) grad_xt ||x0 - x0hat||^2] - eps||^2 (Concept-TRAK section 3.1)."""
    a = denoiser.alpha_bar[t].double()
    xt = xt.detach().requires_grad_()
    eps = denoiser.network(xt, t, encoder_hidden_states=condition).sample
    x0hat = (xt - (1 - a).sqrt() * eps) / a.sqrt()
    (guide,) = torch.autograd.grad((x0 - x0hat).square().sum(), xt, retain_graph=True)
    target = (eps + (1 - a).sqrt() * guide).detach()
    return (target - eps).square().sum(), eps.detach()


@pytest.mark.parametrize("normalise", [False, True])
def test_a_train_row_is_the_gradient_of_the_dps_loss(denoiser, normalise):
    """Inversion step by step; the mean over probes of grad / 2, or of grad / ||grad||."""
    timesteps = (199, 599, 999)
    x0 = torch.randn(3, *denoiser.latent_shape).double()
    condition = denoiser.encode_captions(CAPTIONS)
    machine = unprojected(denoiser, timesteps, normalise)
    ours = machine.train_rows(x0, condition, ["a", "b", "c"]).double()
    for i in range(3):
        c, clean = condition[i : i + 1], x0[i : i + 1]
        with torch.no_grad():
            eps = denoiser.network(clean, 0, encoder_hidden_states=c).sample
        exact, reached = 0, clean
        for t in timesteps:
            a = denoiser.alpha_bar[t].double()
            xt = a.sqrt() * reached + (1 - a).sqrt() * eps
            loss, eps = dps_loss(denoiser, clean, c, xt, t)
            g = gradient(denoiser, loss)
            exact = exact + (g / g.norm() if normalise else g / 2) / len(timesteps)
            reached = (xt - (1 - a).sqrt() * eps) / a.sqrt()
        assert (ours[i] - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("base", [None, "a shape"], ids=["base=c+", "other base"])
def test_a_query_row_is_the_gradient_of_the_slider_loss(denoiser, base):
    """||sg[eps(c) + eps(c+) - eps(c-)] - eps(c)||^2 at one point (Concept-TRAK section 3.2)."""
    noise = torch.randn(1, *denoiser.latent_shape).double()
    plus, minus = (denoiser.encode_captions([text]) for text in ("a red star", "a star"))
    c = plus if base is None else denoiser.encode_captions([base])
    machine = unprojected(denoiser, (999,), normalise=False)
    ours = machine.concept_rows(noise, plus, minus, None if base is None else c)[0].double()

    def predict(text):
        return denoiser.network(noise, 999, encoder_hidden_states=text).sample

    eps = predict(c)
    target = (eps + predict(plus) - predict(minus)).detach()
    exact = gradient(denoiser, (target - eps).square().sum()) / 2
    assert (ours - exact).norm() <= 1e-5 * exact.norm()


def test_a_train_row_under_noising_is_the_gradient_of_the_denoising_loss(denoiser):
    x0 = torch.randn(1, *denoiser.latent_shape).double()
    condition = denoiser.encode_captions(["a fish"])
    machine = unprojected(denoiser, (499,), False, NOISED)
    ours = machine.train_rows(x0, condition, ["a"])[0].double()
    noise = seeded_noise(denoiser.latent_shape, 0, "a", 499, 0).double()
    a = denoiser.alpha_bar[499].double()
    xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
    eps = denoiser.network(xt, 499, encoder_hidden_states=condition).sample
    exact = gradient(denoiser, (eps - noise).square().sum()) / 2
    assert (ours - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("method", METHODS)
def test_a_row_does_not_depend_on_its_batch(tiny_model, method):
    """Batches of 1, 3 and 8 and a shuffled order give the same rows, to 1e-4."""
    denoiser = Denoiser.load(tiny_model)
    machine = extractor(denoiser, plan(denoiser, method=method, timesteps=4, dim=256))
    shown = pictures("validation")[:8]
    ids, captions = [p.id for p in shown], [p.caption for p in shown]
    x0 = denoiser.encode_images([p.draw() for p in shown])
    condition = denoiser.encode_captions(captions)

    def rows(order, size):
        parts = [order[i : i + size] for i in range(0, 8, size)]
        found = torch.cat([
            machine.train_rows(x0[p], condition[p], [ids[i] for i in p])
            for p in parts
        ])  # fmt: skip
        return found[torch.tensor(order).argsort()]

    together = rows(list(range(8)), 8)
    for order, size in ((list(range(8)), 1), (list(range(8)), 3), ([5, 2, 7, 0, 1, 6, 3, 4], 3)):
        error = (rows(order, size) - together).norm(dim=1) / together.norm(dim=1)
        assert error.max() <= 1e-4, (order, size)


def test_two_runs_are_bit_equal(tiny_model):
    def rows():
        denoiser = Denoiser.load(tiny_model)
        machine = extractor(denoiser, plan(denoiser, timesteps=2, dim=128))
        x0 = denoiser.encode_images([p.draw() for p in pictures("validation")[:3]])
        condition = denoiser.encode_captions(CAPTIONS)
        return machine.train_rows(x0, condition, list("abc"))

    assert torch.equal(rows(), rows())


def test_the_mean_of_unit_gradients_is_no_longer_than_one(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    x0 = torch.randn(2, *denoiser.latent_shape)
    condition = denoiser.encode_captions(CAPTIONS[:2])
    one = unprojected(denoiser, (499,), True, NOISED)
    rows = one.train_rows(x0, condition, ["a", "b"])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    three = unprojected(denoiser, (99, 499, 999), True, NOISED)
    rows = three.train_rows(x0, condition, ["a", "b"])
    assert (rows.norm(dim=1) < 1).all()
