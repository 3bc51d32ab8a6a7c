"""Unlearning against its closed form, by plain autograd in float64; and that it leaves no trace."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.conditions import words_of
from support.tiny import tiny_folder, tiny_unconditional
from support.weights import state, unchanged

import headwater
from headwater import Denoiser, Session
from headwater.attribution.scorers.unlearned import natural_gradient, unlearning
from headwater.attribution.scorers.unlearned.natural_gradient import Loss, Options
from headwater.errors import MismatchError, NonFiniteError, ParameterError
from headwater.features.batch import Batch
from headwater.models.sampling import seeded_noise
from headwater.queries.concept import Concept
from headwater.queries.image import Image

# each has its own trial, whose work must not count
pytestmark = pytest.mark.usefixtures("memory_is_tried")

N = 8
SMALL = Options(step=1e-6, timesteps=2, images=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return headwater.load_dataset(tiny_folder(tmp_path_factory.mktemp("unlearning") / "images", N))


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model, data):
    """Of an index that has no timesteps and no layers of its own."""
    denoiser = Denoiser.load(tiny_model, dtype=torch.float64)
    out = tmp_path_factory.mktemp("unlearning") / "index"
    return Session(headwater.build_index(denoiser, data, out, method="pixel-dot"))


@pytest.fixture(scope="module")
def target(session):
    x0 = torch.randn(1, *session.denoiser.latent_shape, generator=torch.Generator().manual_seed(3))
    return unlearning.repeat_picture(session.denoiser, x0.double(), "a red star", seed=0, draws=3)


# --- the closed form ------------------------------------------------------------------------------


def keys_and_values(denoiser):
    named = denoiser.network.named_parameters()
    return [p for name, p in named if ".attn2.to_k." in name or ".attn2.to_v." in name]


def probe_gradients(denoiser, x0, condition, id, timesteps):
    """The gradient of ||eps - noise||^2 / 2 at each timestep."""
    found = []
    for t in timesteps:
        noise = seeded_noise(denoiser.latent_shape, f"0|{id}|{t}|0").double()[None]
        a = denoiser.schedule.alpha_bar[t].double()
        xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
        eps = denoiser.network(xt, t, **condition.tensors).sample
        loss = (eps - noise).square().sum() / 2
        parts = torch.autograd.grad(loss, keys_and_values(denoiser))
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def training_gradients(session, timesteps):
    denoiser, index = session.denoiser, session.index
    rows = []
    for row, sample in enumerate(index.samples):
        x0 = denoiser.encode_images([index.training_set.image(row)])
        condition = denoiser.encode_captions([sample.caption])
        rows.append(probe_gradients(denoiser, x0, condition, sample.id, timesteps))
    return torch.stack(rows)  # [n, timesteps, d]


def test_a_small_step_changes_losses_as_the_first_order_says(session, target):
    """score(i) = s ||theta|| <grad loss_i, F^-1 g> / ||F^-1 g||, with F over all images."""
    options = replace(SMALL, images=N, damping=0.3)
    ours = unlearning.loss_rises(session, target, options)[0]
    denoiser, timesteps = session.denoiser, (299, 799)
    assert unlearning.forgetting_timesteps(session, 2) == timesteps
    gradients = training_gradients(session, timesteps)
    fisher = gradients.square().mean((0, 1))
    of = [
        probe_gradients(denoiser, target.x0[i : i + 1], target.condition[i : i + 1], id, timesteps)
        for i, id in enumerate(target.ids)
    ]
    way = torch.stack(of).mean((0, 1)) / (fisher + 0.3 * fisher.mean())
    weights = torch.cat([p.detach().flatten() for p in keys_and_values(denoiser)])
    distance = options.step * weights.norm()
    pixels = np.prod(denoiser.latent_shape)  # a loss is a mean
    exact = distance * 2 / pixels * gradients.mean(1) @ (way / way.norm())
    assert np.corrcoef(ours, exact)[0, 1] > 0.9999
    torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-3 * exact.abs().max().item())


def test_the_step_is_a_share_of_the_weights_and_goes_uphill(session, target):
    denoiser, before = session.denoiser, state(session.denoiser)
    loss, layers = Loss(denoiser, (299, 799)), natural_gradient.layers_of(denoiser)
    fisher = unlearning.fisher_information(session, loss, layers, 5)
    for steps in (1, 4):
        options = Options(step=1e-3, steps=steps)
        with natural_gradient.restored(layers):
            old = natural_gradient.losses(loss, target).mean()
            natural_gradient.forget(loss, layers, target, fisher, options)
            after = denoiser.network.state_dict()
            moved = sum((after[n] - w).square().sum() for n, w in before.items()).sqrt()
            length = sum(w.square().sum() for w in map(before.get, _names(layers))).sqrt()
            assert natural_gradient.losses(loss, target).mean() > old
        assert moved / length == pytest.approx(1e-3, rel=1e-2 if steps > 1 else 1e-6)


def _names(layers):
    return [f"{name}.{p}" for name, layer in layers.items() for p, _ in layer.named_parameters()]


def test_a_picture_is_among_the_first_to_suffer_from_unlearning_it(tmp_path):
    """On the bundled model, with other noise than the losses see."""
    scenes = headwater.load_dataset("scenes").first(14)
    denoiser = Denoiser.load("scenes")
    session = Session(
        headwater.build_index(denoiser, scenes, tmp_path / "index", method="pixel-dot")
    )
    ranks = []
    for row in (3, 11):
        x0 = denoiser.encode_images([scenes.image(row)])
        target = unlearning.repeat_picture(
            denoiser, x0, scenes.samples[row].caption, seed=0, draws=3
        )
        scores = unlearning.loss_rises(session, target, Options(images=10))[0]
        assert scores[row] > 0
        ranks.append((scores > scores[row]).sum().item())
    assert max(ranks) < 2, ranks


# --- no trace -------------------------------------------------------------------------------------


def test_the_weights_are_restored_bit_for_bit(session, target):
    denoiser, before = session.denoiser, state(session.denoiser)
    fingerprint = Denoiser(denoiser.pipe, dtype=torch.float64).fingerprint()
    unlearning.loss_rises(session, target, replace(SMALL, step=0.3, steps=2))
    assert Denoiser(denoiser.pipe, dtype=torch.float64).fingerprint() == fingerprint
    layers = natural_gradient.layers_of(denoiser)
    with pytest.raises(RuntimeError, match="on the way"), natural_gradient.restored(layers):
        natural_gradient.move(
            layers, {name: torch.ones(_size(m)) for name, m in layers.items()}, 1.0
        )
        assert not unchanged(denoiser, before)
        raise RuntimeError("on the way")
    assert Denoiser(denoiser.pipe, dtype=torch.float64).fingerprint() == fingerprint
    assert all(p.requires_grad for p in denoiser.network.parameters())


def _size(module):
    return sum(p.numel() for p in module.parameters())


def test_a_step_that_breaks_the_model_is_refused(session, target):
    before = state(session.denoiser)
    with pytest.raises(NonFiniteError, match="take a smaller step than 1e\\+200"):
        unlearning.loss_rises(session, target, replace(SMALL, step=1e200))
    assert unchanged(session.denoiser, before)


def test_no_step_changes_no_loss(session, target):
    assert not unlearning.loss_rises(session, target, replace(SMALL, step=0.0)).any()


def test_nothing_to_unlearn_is_refused(session, target):
    nan = Batch(target.x0 * float("nan"), target.condition, target.ids)
    with pytest.raises(NonFiniteError, match="nothing to unlearn"):
        unlearning.loss_rises(session, nan, SMALL)


def test_scores_do_not_depend_on_the_batch_and_come_out_the_same_again(session, target):
    def scores(size):
        shutil.rmtree(session.queries, ignore_errors=True)  # losses, Fisher information
        return unlearning.loss_rises(session, target, replace(SMALL, step=1e-2), batch_size=size)

    together = scores(8)
    assert together.abs().min() > 0
    for size in (1, 3):
        torch.testing.assert_close(scores(size), together, rtol=1e-6, atol=1e-12)
    assert torch.equal(scores(8), together)


def test_what_no_query_changes_is_computed_once(session, target, monkeypatch):
    sweeps = []
    sweep = unlearning.training_losses

    def counted(session, loss, batch_size=None, title="losses"):
        sweeps.append(title)
        return sweep(session, loss, batch_size, title)

    monkeypatch.setattr(unlearning, "training_losses", counted)
    options = replace(SMALL, seed=7)  # that no other test has
    first = unlearning.loss_rises(session, target, options)
    assert sweeps == ["losses before", "losses after"]
    with monkeypatch.context() as patch:
        patch.setattr(unlearning, "fisher_information", None)
        assert torch.equal(unlearning.loss_rises(session, target, options), first)
        assert sweeps[2:] == ["losses after"]
        with pytest.raises(TypeError):  # another Fisher
            unlearning.loss_rises(session, target, replace(options, images=6))
    sweeps.clear()
    unlearning.loss_rises(session, target, replace(options, seed=8))  # other noise
    assert sweeps == ["losses before", "losses after"]


# --- asked through an index -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        Concept("a red star in hatched style", concept="star", draws=2),
        Image("a red star", draws=2, steps=3),
    ],
    ids=["concept", "image"],
)
def test_any_index_answers_by_unlearning(session, query, monkeypatch):
    monkeypatch.setattr(unlearning, "PICTURE_STEPS", 3)
    before = state(session.denoiser)
    attribution = session.attribute(query, method="unlearning")
    assert attribution.scores.std() > 0
    assert "by unlearning" in attribution.asked
    assert json.dumps(attribution.provenance["query"]["unlearning"])
    assert np.array_equal(session.attribute(query, method="unlearning").scores, attribution.scores)
    assert unchanged(session.denoiser, before)


def test_a_concept_is_unlearned_as_pictures_of_its_prompts(session, monkeypatch):
    """Each its own, so that the prompts' other words average out."""
    monkeypatch.setattr(unlearning, "PICTURE_STEPS", 2)
    made = unlearning.make_pictures(session.denoiser, ["a red star", "a fish"], 0)
    alone = unlearning.make_pictures(session.denoiser, ["a red star"], 0)
    torch.testing.assert_close(made.x0[:1], alone.x0)
    assert (made.x0[0] - made.x0[1]).abs().max() > 0.01
    exact = session.denoiser.encode_captions(["a red star", "a fish"])
    assert torch.equal(words_of(made.condition), words_of(exact))


def test_a_model_that_reads_no_prompts_unlearns_its_attention(tmp_path, data):
    denoiser = Denoiser.load(tiny_unconditional(tmp_path / "ddpm"))
    layers = natural_gradient.layers_of(denoiser)
    assert layers and all(name.endswith(("to_k", "to_v")) for name in layers)
    index = headwater.build_index(denoiser, data, tmp_path / "index", method="pixel-dot")
    attribution = index.attribute(Image(steps=3, draws=2), method="unlearning")
    assert attribution.scores.std() > 0


def test_which_weights(session):
    names = list(natural_gradient.layers_of(session.denoiser))
    assert names and all(".attn2.to_k" in name or ".attn2.to_v" in name for name in names)
    assert set(natural_gradient.layers_of(session.denoiser, "attn")) > set(names)
    with pytest.raises(ParameterError, match="matches no layer"):
        natural_gradient.layers_of(session.denoiser, "attn9")


def test_timesteps_are_the_middles_of_equal_parts(session, monkeypatch):
    assert unlearning.forgetting_timesteps(session, 4) == (199, 399, 699, 899)
    recipe = replace(session.index.recipe, timesteps=(9, 99, 499))
    monkeypatch.setitem(vars(session.index), "recipe", recipe)
    assert unlearning.forgetting_timesteps(session, 1) == (99,)
    assert unlearning.forgetting_timesteps(session, 4) == (9, 99, 499)


def test_images_of_another_data_set_are_refused(session, target, data):
    moved = replace(data, samples=data.samples[::-1])
    other = Session.open(session.index.path, denoiser=session.denoiser, training_set=moved)
    with pytest.raises(MismatchError, match="is not at row 0: build the index again"):
        unlearning.loss_rises(other, target, SMALL)


def test_half_precision_is_warned_of(tmp_path, tiny_model, data):
    denoiser = Denoiser.load(tiny_model, dtype=torch.bfloat16)
    session = Session(headwater.build_index(denoiser, data, tmp_path / "index", method="pixel-dot"))
    x0 = torch.randn(1, *denoiser.latent_shape)
    target = unlearning.repeat_picture(denoiser, x0, "a red star", seed=0, draws=2)
    with pytest.warns(headwater.errors.HeadwaterWarning, match="bfloat16 rounds"):
        unlearning.loss_rises(session, target, replace(SMALL, step=0.1))
