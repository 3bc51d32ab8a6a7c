"""Each delta against the float64 autograd gradient of the loss or output that it stands for."""

from itertools import product

import pytest
import torch
from support.tiny import tiny_unconditional

from headwater import Denoiser
from headwater.features import guidance, objectives, probes
from headwater.features.batch import Batch
from headwater.features.guidance import DELTAS
from headwater.features.spec import ProbeSpec, Side
from headwater.models.sampling import seeded_noise
from headwater.models.schedule import TARGETS, flow, preserving

CAPTIONS = ["a red star", "a fish on a wavy background"]
IDS = ["a", "b"]


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model, dtype=torch.float64)


@pytest.fixture(scope="module")
def pixel_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guidance") / "ddpm"
    return Denoiser.load(tiny_unconditional(folder), dtype=torch.float64)


def latents(denoiser, count=2):
    return torch.randn(count, *denoiser.latent_shape).double()


def noised(denoiser, x0, condition, t=499, seed=0, ids=IDS, draws=1):
    return list(probes.noising(denoiser, Batch(x0, condition, ids), ProbeSpec([t], seed, draws)))


def gradient(denoiser, eps, upstream=None):
    """(d eps / d weights)^T upstream, or the gradient of a number, of one small layer."""
    weights = [p for m in denoiser.layers(r"mid_block.*attn2").values() for p in
               m.parameters()]  # fmt: skip
    found = torch.autograd.grad(eps, weights, upstream, retain_graph=True)
    return torch.cat([g.flatten() for g in found])


def assert_same(ours, exact, rtol=1e-9):
    assert exact.norm() > 0
    assert (ours - exact).norm() <= rtol * exact.norm()


# --- of pictures --------------------------------------------------------------------------------

# What J^T delta is the gradient of, for one sample.
OUTPUTS = {
    "dsm": lambda eps, noise: (eps - noise).square().sum() / 2,
    "square": lambda eps, noise: eps.square().sum() / 2,
    "mean": lambda eps, noise: eps.mean() * eps.numel(),
    "l1": lambda eps, noise: eps.abs().sum(),
    "l2": lambda eps, noise: eps.square().sum().sqrt(),
    "linf": lambda eps, noise: eps.abs().max(),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_delta_gives_the_gradient_of_its_output(denoiser, name):
    """J^T delta of each sample equals the gradient of the output of that sample alone."""
    x0, condition = latents(denoiser), denoiser.encode_captions(CAPTIONS)
    (probe,) = noised(denoiser, x0, condition)
    delta = DELTAS[name](denoiser, probe, x0)
    for i in range(2):
        only = torch.zeros_like(delta)
        only[i] = delta[i]
        exact = OUTPUTS[name](probe.out[i], probe.noise[i])
        assert_same(gradient(denoiser, probe.out, only), gradient(denoiser, exact))


@pytest.mark.parametrize("t", [0, 1, 499, 999])
def test_weighted_is_dsm_times_the_weight_of_the_variational_bound(denoiser, t):
    """beta_t / (2 alpha_t (1 - alphabar_t)), from the scheduler's betas."""
    scheduler = denoiser.pipe.scheduler
    beta, alpha_bar = (each[t].double() for each in (scheduler.betas, scheduler.alphas_cumprod))
    factor = beta / (2 * (1 - beta) * (1 - alpha_bar))
    x0, condition = latents(denoiser), denoiser.encode_captions(CAPTIONS)
    (probe,) = noised(denoiser, x0, condition, t)
    ours = DELTAS["weighted"](denoiser, probe, x0)
    assert_same(ours, factor * (probe.out - probe.noise).detach(), rtol=1e-3)


def test_random_signs_depend_on_sample_t_and_draw_alone(denoiser):
    def signs(x0, ids):
        condition = denoiser.encode_captions(["a star"] * len(ids))
        return {
            (id, t, draw): row
            for t in (99, 999)
            for draw, probe in enumerate(noised(denoiser, x0, condition, t, ids=ids, draws=2))
            for id, row in zip(ids, DELTAS["random"](denoiser, probe, x0), strict=True)
        }

    first, other = signs(latents(denoiser), ["a", "b"]), signs(latents(denoiser, 1), ["b"])
    assert len(first) == 8 and len(other) == 4
    for key, row in other.items():
        assert torch.equal(row, first[key]), key
    assert all(row.abs().eq(1).all() for row in first.values())
    rows = torch.stack([row.flatten() for row in first.values()])
    overlaps = rows @ rows.T / rows.shape[1] - torch.eye(8)
    assert overlaps.abs().max() < 5 / rows.shape[1] ** 0.5  # signs of different keys


def test_random_signs_are_not_those_of_the_noise(denoiser):
    x0, condition = latents(denoiser), denoiser.encode_captions(CAPTIONS)
    (probe,) = noised(denoiser, x0, condition)
    agree = (DELTAS["random"](denoiser, probe, x0) == probe.noise.sign()).double().mean()
    assert 0.3 < agree < 0.7


def x0hat_of(denoiser, xt, t, condition):
    """x0hat with its graph, straight from the network."""
    a = denoiser.schedule.alpha_bar[t].double()
    given = {} if condition is None else condition.tensors
    eps = denoiser.network(xt, t, **given).sample
    return (xt - (1 - a).sqrt() * eps) / a.sqrt()


def slope(denoiser, probe, condition, reward):
    """Gradient at xt of a reward of x0hat, each sample by itself."""
    rows = []
    for i in range(len(probe.xt)):
        xt = probe.xt[i : i + 1].detach().requires_grad_()
        c = None if condition is None else condition[i : i + 1]
        (found,) = torch.autograd.grad(reward(x0hat_of(denoiser, xt, probe.t, c), i), xt)
        rows.append(found)
    return torch.cat(rows)


@pytest.mark.parametrize("t", [99, 999])
def test_dps_is_the_gradient_at_xt_of_the_distance(denoiser, t):
    """-sqrt(1 - alphabar) grad ||x0 - x0hat(xt)||^2, through the network."""
    x0, condition = latents(denoiser), denoiser.encode_captions(CAPTIONS)
    (probe,) = noised(denoiser, x0, condition, t)
    exact = slope(denoiser, probe, condition, lambda x0hat, i: (x0[i] - x0hat).square().sum())
    weight = (1 - denoiser.schedule.alpha_bar[t].double()).sqrt()
    assert_same(DELTAS["dps"](denoiser, probe, x0), -weight * exact)


def test_dps_and_dsm_point_the_same_way(denoiser):
    """Both want the sample: x0hat - x0 = -c (eps - noise)."""
    x0, condition = latents(denoiser), denoiser.encode_captions(CAPTIONS)
    (probe,) = noised(denoiser, x0, condition, 99)
    ours = [DELTAS[name](denoiser, probe, x0).flatten(1) for name in ("dps", "dsm")]
    assert (torch.nn.functional.cosine_similarity(*ours) > 0.5).all()


# --- whatever the network predicts --------------------------------------------------------------

KINDS = {
    "epsilon": lambda alpha_bar: preserving(alpha_bar, "epsilon"),
    "v_prediction": lambda alpha_bar: preserving(alpha_bar, "v_prediction"),
    "sample": lambda alpha_bar: preserving(alpha_bar, "sample"),
    "flow": lambda alpha_bar: flow(torch.linspace(0.001, 1, len(alpha_bar))),
}


@pytest.fixture(params=KINDS)
def any_kind(request, denoiser, monkeypatch):
    """The model, taken to predict one thing or another."""
    schedule = KINDS[request.param](denoiser.pipe.scheduler.alphas_cumprod)
    monkeypatch.setattr(denoiser, "schedule", schedule)
    return denoiser


def of_loss(denoiser, probe, condition, loss):
    """The gradient of a number of (xt, out) of the first sample, for the weights."""
    xt = probe.xt[:1].detach().requires_grad_()
    out = denoiser.network(xt, probe.t, **condition[:1].tensors).sample
    return gradient(denoiser, loss(xt, out))


def first_row(denoiser, probe, delta):
    """J^T delta of the first sample."""
    only = torch.zeros_like(delta)
    only[0] = delta[0]
    return gradient(denoiser, probe.out, only)


@pytest.mark.parametrize("t", [99, 499, 899])
def test_dsm_is_the_loss_that_the_model_was_trained_with(any_kind, t):
    x0, condition = latents(any_kind), any_kind.encode_captions(CAPTIONS)
    (probe,) = noised(any_kind, x0, condition, t)
    (a, s), e = any_kind.schedule.rates(t), probe.noise[:1]
    target = {
        "epsilon": e, "v_prediction": a * e - s * x0[:1], "sample": x0[:1], "flow": e - x0[:1],
    }[any_kind.schedule.prediction]  # fmt: skip
    exact = of_loss(any_kind, probe, condition, lambda xt, out: (out - target).square().sum() / 2)
    assert_same(first_row(any_kind, probe, DELTAS["dsm"](any_kind, probe, x0)), exact)
    error = any_kind.predict(probe.xt, t, condition)[:1] - target
    side = Side("noising", "dsm")
    (asked,) = objectives.image_objectives(
        any_kind, side, Batch(x0, condition, IDS), ProbeSpec([t])
    )
    torch.testing.assert_close(asked.residual[0], error.detach().square().mean())


@pytest.mark.parametrize("t", [99, 499, 899])
@pytest.mark.parametrize("name", ["dps", "reward", "preference", "concept"])
def test_a_shift_of_the_noise_is_asked_of_the_output_that_implies_it(any_kind, name, t):
    """J^T delta points along the gradient of the papers' loss, ||sg[ehat - shift] - ehat||^2.

    ehat is the noise that the output implies; how long the gradient is differs from step to step.
    """
    x0, other = latents(any_kind), latents(any_kind)
    condition, minus = any_kind.encode_captions(CAPTIONS), any_kind.encode_captions(["a", "b"])
    (probe,) = noised(any_kind, x0, condition, t)
    (a, s), schedule = any_kind.schedule.rates(t), any_kind.schedule

    def noise_and_clean(xt, out):
        p, q = TARGETS[schedule.prediction](a, s)
        solved = torch.linalg.inv(torch.tensor([[a, s], [p, q]]).double())
        return solved[1, 0] * xt + solved[1, 1] * out, solved[0, 0] * xt + solved[0, 1] * out

    def shift(xt, out):
        """What is taken off ehat."""
        ehat, x0hat = noise_and_clean(xt, out)
        if name == "concept":
            without = any_kind.network(xt, t, **minus[:1].tensors).sample
            return noise_and_clean(xt, without)[0] - ehat
        if name == "reward":
            decoded = any_kind.family.to_pixels(x0hat)
            value = -brightness(((decoded + 1) / 2).clamp(0, 1)).sum()
        elif name == "preference":
            value = (x0hat - x0[:1]).square().sum() - (x0hat - other[:1]).square().sum()
        else:
            value = (x0hat - x0[:1]).square().sum()
        (slope,) = torch.autograd.grad(value, xt, retain_graph=True)
        return -slope

    def loss(xt, out):
        ehat, _ = noise_and_clean(xt, out)
        return ((ehat - shift(xt, out)).detach() - ehat).square().sum() / 2

    delta = {
        "dps": lambda: DELTAS["dps"](any_kind, probe, x0),
        "reward": lambda: guidance.reward(any_kind, probe, brightness),
        "preference": lambda: guidance.preference(any_kind, probe, x0, other, 1),
        "concept": lambda: guidance.concept(any_kind, probe, None, minus),
    }[name]()
    ours, exact = (
        first_row(any_kind, probe, delta), of_loss(any_kind, probe, condition, loss),
    )  # fmt: skip
    assert_same(ours / ours.norm(), exact / exact.norm(), rtol=1e-6)


def test_a_flow_is_asked_at_pure_noise_too(denoiser, monkeypatch):
    """There x_t holds no signal, and the noise it implies does not depend on the output."""
    monkeypatch.setattr(denoiser, "schedule", flow(torch.linspace(0.001, 1, 1000)))
    x0, condition = latents(denoiser), denoiser.encode_captions(CAPTIONS)
    (probe,) = noised(denoiser, x0, condition, 999)
    assert denoiser.schedule.rates(999) == (0, 1)
    torch.testing.assert_close(probe.xt.detach(), probe.noise)
    for name in ("dsm", "dps", "square"):
        row = first_row(denoiser, probe, DELTAS[name](denoiser, probe, x0))
        assert row.isfinite().all() and row.norm() > 1e-3 * probe.out.norm()


# --- of what is asked in words, by rewards and by preferences -----------------------------------


@pytest.mark.parametrize("based", [False, True], ids=["base=c+", "other base"])
def test_concept_is_the_difference_of_two_predictions(denoiser, based):
    plus, minus, other = (
        denoiser.encode_captions([text] * 2) for text in ("a red star", "a star", "a fish")
    )
    base = other if based else None
    (asked,) = objectives.concept_objectives(denoiser, latents(denoiser), plus, minus, base, [999])
    torch.manual_seed(0)
    xt = latents(denoiser)  # the trajectory's first point is its noise

    def predicted(condition):
        return denoiser.network(xt, 999, **condition.tensors).sample.detach()

    torch.testing.assert_close(asked.out, predicted(plus if base is None else base))
    assert_same(asked.delta, predicted(minus) - predicted(plus))
    target = (asked.out.detach() + predicted(plus) - predicted(minus) - asked.out).square().sum()
    assert_same(gradient(denoiser, asked.out, asked.delta), gradient(denoiser, target / 2))


def brightness(pixels):
    return pixels[:, 0].mean((1, 2)) - pixels[:, 2].square().mean((1, 2))


def test_reward_is_its_gradient_at_xt_through_the_autoencoder(denoiser):
    condition = denoiser.encode_captions(CAPTIONS)
    (probe,) = noised(denoiser, latents(denoiser), condition)

    def decoded(x0hat, i):
        vae = denoiser.pipe.vae
        picture = vae.decode(x0hat / vae.config.scaling_factor).sample
        return brightness(((picture + 1) / 2).clamp(0, 1)).sum()

    exact = slope(denoiser, probe, condition, decoded)
    assert_same(guidance.reward(denoiser, probe, brightness), exact)


def test_dps_is_the_reward_of_being_near(pixel_model):
    """One convention, delta = + grad R: R = -||x0 - x0hat||^2 gives dps, but for a constant."""
    x0, t = 0.1 * latents(pixel_model), 99
    (probe,) = noised(pixel_model, x0, None, t)
    scaled = probes._probe(pixel_model, 0.1 * probe.xt, t, None)
    x0hat = x0hat_of(pixel_model, scaled.xt, t, None)
    assert x0hat.abs().max() < 1  # so that no pixel is cut off

    def near(pixels):
        return -(2 * pixels - 1 - x0).square().flatten(1).sum(1)

    reward = guidance.reward(pixel_model, scaled, near)
    weight = (1 - pixel_model.schedule.alpha_bar[t].double()).sqrt()
    assert_same(DELTAS["dps"](pixel_model, scaled, x0), weight * reward)


def test_reward_of_a_trajectory_asks_at_every_step(denoiser):
    condition = denoiser.encode_captions(CAPTIONS)
    noise, steps = latents(denoiser), (499, 999)
    ours = list(objectives.reward_objectives(denoiser, noise, condition, brightness, steps))
    path = probes.generation(denoiser, noise, condition, steps)
    for asked, probe in zip(ours, path, strict=True):
        assert_same(asked.delta, guidance.reward(denoiser, probe, brightness))
        assert asked.residual is None


def test_preference_is_the_gradient_of_its_reward_at_both_images(denoiser):
    """R of Concept-TRAK C.3, each term reaching the probe that it contains."""
    better, worse = latents(denoiser), latents(denoiser)
    condition, t = denoiser.encode_captions(CAPTIONS), 499

    def reward(x0hat, i):
        return (x0hat - worse[i]).square().sum() - (x0hat - better[i]).square().sum()

    for own, other, sign in ((better, worse, 1), (worse, better, -1)):
        (asked,) = objectives.preference_objectives(
            denoiser, Batch(own, condition), other, sign, ProbeSpec([t])
        )
        (probe,) = probes.inversion(denoiser, Batch(own, condition), ProbeSpec([t]))
        assert_same(asked.delta, slope(denoiser, probe, condition, reward))


# --- a part of a picture ------------------------------------------------------------------------


def about(denoiser, delta, mask, path="noising"):
    torch.manual_seed(3)
    x0, condition = latents(denoiser), denoiser.encode_captions(CAPTIONS)
    side, steps = Side(path, delta), (499, 999)
    batch = Batch(x0, condition, IDS)
    return list(objectives.image_objectives(denoiser, side, batch, ProbeSpec(steps), mask))


SIDES = [*product(["noising"], DELTAS), ("inversion", "dps"), ("renoised", "dsm")]


@pytest.mark.parametrize("path, delta", SIDES)
def test_a_mask_keeps_delta_inside_and_makes_it_zero_outside(denoiser, path, delta):
    mask = torch.zeros(1, 1, *denoiser.latent_shape[1:]).double()
    mask[..., 2:5, 3:] = 1
    mask[..., 5, 3:] = 0.25  # an edge, by area
    whole, part = (about(denoiser, delta, each, path) for each in (None, mask))
    ones = about(denoiser, delta, torch.ones_like(mask), path)
    for one, two, three in zip(whole, part, ones, strict=True):
        outside = (mask == 0).expand_as(two.delta)
        assert (two.delta[outside] == 0).all() and two.delta.any()
        torch.testing.assert_close(two.delta, one.delta * mask, rtol=0, atol=0)
        assert torch.equal(one.delta, three.delta)


def test_what_a_prompt_makes_inside_a_mask(denoiser):
    """eps("") - eps(c) at the picture's noised states, with the noise of its own draws."""
    mask = torch.zeros(1, 1, *denoiser.latent_shape[1:]).double()
    mask[..., 2:5, 3:] = 1
    x0 = latents(denoiser)
    condition, empty = (denoiser.encode_captions([text] * 2) for text in ("a star", ""))
    steps, ids = [499, 999], ["one", "two"]
    batch = Batch(x0, condition, ids)
    asked = objectives.prompt_objectives(denoiser, batch, empty, ProbeSpec(steps, seed=7), mask)
    for t, each in zip(steps, asked, strict=True):
        noise = torch.stack([seeded_noise(x0.shape[1:], f"7|{id}|{t}|0") for id in ids]).to(x0)
        a = denoiser.schedule.alpha_bar[t].double()
        xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
        at_c, at_nothing = (
            denoiser.network(xt, t, **c.tensors).sample.detach() for c in (condition, empty)
        )
        assert_same(each.out, at_c)
        assert_same(each.delta, (at_nothing - at_c) * mask)
        assert each.delta.any()
