"""Feature rows against the losses they are gradients of, in float64, and against rearrangement."""

import hashlib

import pytest
import torch
from support.exact_gradients import NOISED, gradient, unprojected
from support.tiny import tiny_pipeline
from torch import nn

from headwater import Denoiser
from headwater.features.batch import Batch
from headwater.features.objectives import concept_objectives
from headwater.features.spec import Side
from headwater.gradients.layers import size
from headwater.index.config import plan
from headwater.index.machines import extractor
from headwater.methods.table import METHODS
from headwater.models.condition import Condition
from headwater.models.patches import compiled
from headwater.models.sampling import seeded_noise
from headwater.scenes.dataset import pictures


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model, dtype=torch.float64)


@pytest.fixture(scope="module")
def single(tiny_model):
    """The same in float32."""
    return Denoiser.load(tiny_model)


CAPTIONS = ["a red star", "a fish on a wavy background", "a shape"]


def dps_loss(denoiser, x0, condition, xt, t):
    """||sg[eps + sqrt(1-abar) grad_xt ||x0 - x0hat||^2] - eps||^2 (Concept-TRAK section 3.1)."""
    a = denoiser.schedule.alpha_bar[t].double()
    xt = xt.detach().requires_grad_()
    eps = denoiser.network(xt, t, **condition.tensors).sample
    x0hat = (xt - (1 - a).sqrt() * eps) / a.sqrt()
    (guide,) = torch.autograd.grad((x0 - x0hat).square().sum(), xt, retain_graph=True)
    target = (eps + (1 - a).sqrt() * guide).detach()
    return (target - eps).square().sum(), eps.detach()


@pytest.mark.parametrize("normalise, guidance", [("none", 1.0), ("probe", 1.0), ("probe", 7.5)])
def test_a_train_row_is_the_gradient_of_the_dps_loss(denoiser, normalise, guidance):
    """Inversion step by step; the mean over probes of grad / 2, or of grad / ||grad||."""
    timesteps = (199, 599, 999)
    x0 = torch.randn(3, *denoiser.latent_shape).double()
    condition = denoiser.encode_captions(CAPTIONS)
    machine = unprojected(denoiser, timesteps, normalise, guidance=guidance)
    ours = machine.train_rows(Batch(x0, condition, ["a", "b", "c"])).features
    for i in range(3):
        under = dict.fromkeys((0, *timesteps), condition[i : i + 1])
        gradients = dps_gradients(denoiser, x0[i : i + 1], under, guidance)
        exact = sum(g / g.norm() if normalise == "probe" else g / 2 for g in gradients) / 3
        assert (ours[i] - exact).norm() <= 1e-9 * exact.norm()


def dps_gradients(denoiser, x0, under, guidance=1.0):
    """Of the DPS loss, step by step; `under` has the condition of each step, t = 0 first."""
    empty = denoiser.encode_captions([""])

    def direction(xt, t, eps):
        with torch.no_grad():
            free = denoiser.network(xt, t, **empty.tensors).sample
        return free + guidance * (eps - free)

    with torch.no_grad():
        eps = denoiser.network(x0, 0, **under.pop(0).tensors).sample
    eps, reached, gradients = direction(x0, 0, eps), x0, []
    for t, condition in under.items():
        a = denoiser.schedule.alpha_bar[t].double()
        xt = a.sqrt() * reached + (1 - a).sqrt() * eps
        loss, eps = dps_loss(denoiser, x0, condition, xt, t)
        eps = direction(xt, t, eps)
        gradients.append(gradient(denoiser, loss))
        reached = (xt - (1 - a).sqrt() * eps) / a.sqrt()
    return gradients


# --- several captions -----------------------------------------------------------------------------

SEVERAL = [["a red star", "a star", "a shape in red"], ["a fish"], ["a ring", "a blue ring"]]


def chosen(row, t):
    """The caption that the documented key draws, of seed 0 and the first draw."""
    digest = hashlib.sha256(f"caption|0|{'abc'[row]}|{t}|0".encode()).digest()
    return SEVERAL[row][int.from_bytes(digest[:8], "big") % len(SEVERAL[row])]


@pytest.fixture(scope="module")
def several(denoiser):
    """Latents, with two or three captions for two of three images."""
    x0 = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(1)).double()
    condition = denoiser.encode_captions([text for own in SEVERAL for text in own])
    return Batch(x0, condition, ["a", "b", "c"], [3, 1, 2])


def test_of_several_captions_a_noised_image_has_one_at_each_probe(denoiser, several):
    timesteps = (99, 299, 499, 699, 899)
    ours = unprojected(denoiser, timesteps, "none", NOISED).train_rows(several).features
    for i in range(3):
        exact = 0
        for t in timesteps:
            noise = seeded_noise(denoiser.latent_shape, f"0|{'abc'[i]}|{t}|0").double()
            a = denoiser.schedule.alpha_bar[t].double()
            xt = a.sqrt() * several.x0[[i]] + (1 - a).sqrt() * noise
            condition = denoiser.encode_captions([chosen(i, t)])
            eps = denoiser.network(xt, t, **condition.tensors).sample
            exact = exact + gradient(denoiser, (eps - noise).square().sum()) / 2 / len(timesteps)
        assert (ours[i] - exact).norm() <= 1e-9 * exact.norm()
    assert len({chosen(0, t) for t in timesteps}) > 1


def test_of_several_captions_an_inversion_has_one_at_each_step(denoiser, several):
    timesteps = (199, 599, 999)
    ours = unprojected(denoiser, timesteps, "none").train_rows(several).features
    for i in range(3):
        under = {t: denoiser.encode_captions([chosen(i, t)]) for t in (0, *timesteps)}
        exact = sum(dps_gradients(denoiser, several.x0[[i]], under)) / 2 / 3
        assert (ours[i] - exact).norm() <= 1e-9 * exact.norm()


def test_captions_are_drawn_evenly(denoiser):
    """Of 400 draws each of four captions has about a hundred (six standard deviations: 52)."""
    condition = Condition({"number": torch.arange(4)})
    batch = Batch(torch.zeros(1, 1, 1, 1), condition, ["a"], [4])
    drawn = [int(batch.drawn([f"0|a|{t}|0"]).tensors["number"]) for t in range(400)]
    assert all(abs(drawn.count(caption) - 100) < 52 for caption in range(4))


@pytest.mark.parametrize("base", [None, "a shape"], ids=["base=c+", "other base"])
def test_a_query_row_is_the_gradient_of_the_slider_loss(denoiser, base):
    """||sg[eps(c) + eps(c+) - eps(c-)] - eps(c)||^2 at one point (Concept-TRAK section 3.2)."""
    noise = torch.randn(1, *denoiser.latent_shape).double()
    plus, minus = (denoiser.encode_captions([text]) for text in ("a red star", "a star"))
    c = plus if base is None else denoiser.encode_captions([base])
    machine = unprojected(denoiser, (999,), "none")
    timesteps = machine.timesteps
    asked = concept_objectives(denoiser, noise, plus, minus, None if base is None else c, timesteps)
    ours = machine.query_rows(asked)[0]

    def predict(text):
        return denoiser.network(noise, 999, **text.tensors).sample

    eps = predict(c)
    target = (eps + predict(plus) - predict(minus)).detach()
    exact = gradient(denoiser, (target - eps).square().sum()) / 2
    assert (ours - exact).norm() <= 1e-9 * exact.norm()


def test_a_train_row_under_noising_is_the_gradient_of_the_denoising_loss(denoiser):
    x0 = torch.randn(1, *denoiser.latent_shape).double()
    condition = denoiser.encode_captions(["a fish"])
    machine = unprojected(denoiser, (499,), "none", NOISED)
    ours = machine.train_rows(Batch(x0, condition, ["a"])).features[0]
    noise = seeded_noise(denoiser.latent_shape, "0|a|499|0").double()
    a = denoiser.schedule.alpha_bar[499].double()
    xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
    eps = denoiser.network(xt, 499, **condition.tensors).sample
    exact = gradient(denoiser, (eps - noise).square().sum()) / 2
    assert (ours - exact).norm() <= 1e-9 * exact.norm()


# One method for each kind of row.
GRADIENT = {
    (m.train, m.normalise): name
    for name, m in METHODS.items()
    if m.train is not None and m.train.gradient
}


@pytest.mark.parametrize("method", GRADIENT.values())
def test_a_row_does_not_depend_on_its_batch(single, method):
    """Batches of 1, 2 and 3 and a shuffled order give the same rows, to 1e-4."""
    machine = extractor(single, plan(single, method=method, timesteps=2, dim=256))
    shown = pictures("validation")[:3]
    ids, captions = [p.id for p in shown], [p.caption for p in shown]
    x0 = single.encode_images([p.draw() for p in shown])
    condition = single.encode_captions(captions)

    def rows(order, size):
        parts = [order[i : i + size] for i in range(0, 3, size)]
        found = torch.cat([
            machine.train_rows(Batch(x0[p], condition[p], [ids[i] for i in p])).features
            for p in parts
        ])  # fmt: skip
        return found[torch.tensor(order).argsort()]

    together = rows([0, 1, 2], 3)
    for order, batch in (([0, 1, 2], 1), ([2, 0, 1], 2)):
        error = (rows(order, batch) - together).norm(dim=1) / together.norm(dim=1)
        assert error.max() <= 1e-4, (order, batch)


def test_two_runs_are_bit_equal(tiny_model):
    def rows():
        denoiser = Denoiser.load(tiny_model)
        recipe = plan(denoiser, method="concept-trak-unguided", timesteps=2, dim=128)
        machine = extractor(denoiser, recipe)
        x0 = denoiser.encode_images([p.draw() for p in pictures("validation")[:3]])
        condition = denoiser.encode_captions(CAPTIONS)
        return machine.train_rows(Batch(x0, condition, list("abc"))).features

    assert torch.equal(rows(), rows())


def test_the_mean_of_unit_gradients_is_no_longer_than_one(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    x0 = torch.randn(2, *denoiser.latent_shape)
    condition = denoiser.encode_captions(CAPTIONS[:2])
    one = unprojected(denoiser, (499,), "probe", NOISED)
    rows = one.train_rows(Batch(x0, condition, ["a", "b"])).features
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    three = unprojected(denoiser, (99, 499, 999), "probe", NOISED)
    rows = three.train_rows(Batch(x0, condition, ["a", "b"])).features
    assert (rows.norm(dim=1) < 1).all()


@pytest.mark.parametrize("delta", ["dps", "dsm"])
@pytest.mark.parametrize("dtype, error", [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_stays_near_float64(denoiser, tiny_model, delta, dtype, error):
    """Per probe, over seven orders of magnitude of the input, with no loss scale anywhere."""
    half = Denoiser.load(tiny_model, dtype=dtype)
    train = Side("noising", delta)
    for magnitude in (1e-4, 1e3):
        x0 = magnitude * torch.randn(2, *denoiser.latent_shape)
        rows = []
        for each in (denoiser, half):
            machine = unprojected(each, (99, 499), "none", train)
            condition = each.encode_captions(CAPTIONS[:2])
            probes = machine.train_probes(Batch(x0.to(each.latent_dtype), condition, ["a", "b"]))
            rows.append([probe.features.double() for probe in probes])
        for exact, ours in zip(*rows, strict=True):
            assert ((ours - exact).norm(dim=1) <= error * exact.norm(dim=1)).all(), magnitude


def test_norms_of_probes_are_those_of_each_layer(denoiser):
    x0 = torch.randn(2, *denoiser.latent_shape).double()
    machine = unprojected(denoiser, (99, 999))
    sizes = [size(layer) for layer in machine.layers.values()]
    condition = denoiser.encode_captions(CAPTIONS[:2])
    probes = list(machine.train_probes(Batch(x0, condition, ["a", "b"])))
    assert len(probes) == 2
    for probe in probes:
        exact = torch.stack([part.norm(dim=1) for part in probe.features.split(sizes, 1)])
        ours = torch.stack([probe.norms[name] for name in machine.layers])
        torch.testing.assert_close(ours, exact, rtol=1e-9, atol=0)
        torch.testing.assert_close(probe.norm(), probe.features.norm(dim=1), rtol=1e-9, atol=0)


def test_keys_and_values_are_projected_once_for_a_caption(denoiser):
    """Over a whole inversion (four forward passes), and the weights see the same gradients."""
    calls = []
    layer = denoiser.network.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    machine = unprojected(denoiser, (99, 499, 999))
    x0, condition = torch.randn(2, 4, 8, 8).double(), denoiser.encode_captions(CAPTIONS[:2])
    original = nn.Linear.forward

    def counted(self, x):
        calls.append(self)
        return original(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "forward", counted)
        machine.train_rows(Batch(x0, condition, ["a", "b"]))
    assert calls.count(layer.to_k) == calls.count(layer.to_v) == 1
    assert calls.count(layer.to_q) == 4
    assert "forward" not in vars(layer.to_k)


# Layers with attention in the last block alone: each part of a network is a compilation of its own.
ATTENDS_LAST = {
    "mid_block_type": None,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it
def test_compiled_parts_give_the_same_rows(tmp_path):
    """Without the C++ compiler: what is captured, and twice backward, is the same."""
    denoiser = Denoiser.load(tiny_pipeline(tmp_path / "model", **ATTENDS_LAST))
    machine = unprojected(denoiser, (99, 999), "probe", Side("noising", "dps"))
    x0, condition = torch.randn(2, *denoiser.latent_shape), denoiser.encode_captions(CAPTIONS[:2])
    eager = machine.train_rows(Batch(x0, condition, ["a", "b"])).features
    layers = list(machine.layers.values())
    with compiled(denoiser.network, layers, backend="aot_eager"):
        parts = [m for m in denoiser.network.modules() if m._compiled_call_impl is not None]
        assert parts and not {id(layer) for layer in layers} & {id(p) for p in parts}
        ours = machine.train_rows(Batch(x0, condition, ["a", "b"])).features
    torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-6)
    assert all(m._compiled_call_impl is None for m in denoiser.network.modules())
