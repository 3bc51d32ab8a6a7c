"""MUCS against a training loop of its own in float64; and that it leaves no trace."""

import copy
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import tiny_folder
from support.weights import state, unchanged

import headwater
from headwater import Concept, Denoiser, Image, Session
from headwater.attribution.scorers import training_images
from headwater.attribution.scorers.unlearned import mucs, unlearning
from headwater.attribution.scorers.unlearned.mucs import Options
from headwater.errors import HeadwaterWarning, NonFiniteError
from headwater.models.sampling import seeded_noise
from headwater.models.schedule import preserving

N, DRAWS = 6, 3
# A random model's loss is that of predicting nothing: it counts as forgetful before the first step.
SMALL = Options(learning_rate=1e-3, steps=2, batch=4, timesteps=2, reached=2.0)


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("mucs")
    data = headwater.load_dataset(tiny_folder(folder / "images", N))
    denoiser = Denoiser.load(tiny_model, dtype=torch.float64)
    return Session(headwater.build_index(denoiser, data, folder / "index", method="pixel-dot"))


@pytest.fixture(scope="module")
def target(session):
    x0 = torch.randn(1, *session.denoiser.latent_shape, generator=torch.Generator().manual_seed(3))
    return unlearning.repeat_picture(session.denoiser, x0.double(), "a red star", seed=0, draws=3)


# --- by hand --------------------------------------------------------------------------------------


def error(session, network, x0, condition, t, noise):
    a = session.denoiser.schedule.alpha_bar[t].double()
    xt = a.sqrt() * x0 + (1 - a).sqrt() * noise[None].double()
    return (network(xt, t, **condition.tensors).sample - noise).square().mean()


def losses_by_hand(session, network, timesteps):
    """[draws, n], under one noise for all images at each timestep."""
    denoiser, index = session.denoiser, session.index
    rows = []
    with torch.no_grad():
        for row, sample in enumerate(index.samples):
            x0 = denoiser.encode_images([index.training_set.image(row)])
            condition = denoiser.encode_captions([sample.caption])
            rows.append([
                error(session, network, x0, condition, t,
                      seeded_noise(denoiser.latent_shape, f"0|every image|{t}|0"))
                for t in timesteps
            ])  # fmt: skip
    return torch.tensor(rows).T


def forgotten_by_hand(session, target, options):
    """A copy of the network, trained on; the null loss of predicted noise is 1."""
    denoiser, index = session.denoiser, session.index
    network = copy.deepcopy(denoiser.network).eval()
    learning = [
        weight
        for name, weight in network.named_parameters()
        if ".attn" not in name and "emb" not in name and weight.ndim > 1
    ]
    optimizer = torch.optim.Adam(learning, lr=options.learning_rate)
    for step in range(options.steps):
        key = f"mucs|0|{step}"
        rows = sorted(random.Random(key).sample(range(N), options.batch))
        total = 0.0
        choice = random.Random(f"{key}|kept")
        times = [choice.randrange(1000) for _ in range(2)]  # for two images each
        for place, row in enumerate(rows):
            t = times[place // 2]
            x0 = denoiser.encode_images([index.training_set.image(row)])
            sample = index.samples[row]
            condition = denoiser.encode_captions([sample.caption])
            noise = seeded_noise(denoiser.latent_shape, f"{key}|kept|{sample.id}|{place}")
            total = total + error(session, network, x0, condition, t, noise) / options.batch
        choice = random.Random(key)
        times = [choice.randrange(1000) for _ in range(2)]
        for place in range(options.batch):
            t = times[place // 2]
            row = (step * options.batch + place) % len(target.ids)
            noise = seeded_noise(denoiser.latent_shape, f"{key}|{target.ids[row]}|{place}")
            x0, condition = target.x0[row : row + 1], target.condition[[row]]
            own = error(session, network, x0, condition, t, noise)
            total = total - options.weight * own.clamp(max=1.0) / options.batch
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return network


def test_scores_are_those_of_a_training_by_hand(session, target):
    before = state(session.denoiser)
    ours, forgotten = mucs.skew(session, target, DRAWS, SMALL)
    assert unchanged(session.denoiser, before)
    assert forgotten.steps == 2 and 0 < forgotten.loss <= 1
    timesteps = (532, 765, 999)  # thirds of the noisier 70%
    old = losses_by_hand(session, session.denoiser.network, timesteps)
    new = losses_by_hand(session, forgotten_by_hand(session, target, SMALL), timesteps)
    exact = (new - old) / (new + old + 1e-3)
    assert exact.abs().min() > 0
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-8)


# --- forgetting -----------------------------------------------------------------------------------


def test_it_stops_where_the_query_is_forgotten(session, target):
    scores, forgotten = mucs.skew(session, target, DRAWS, replace(SMALL, reached=0.95))
    assert forgotten.steps == 0 and forgotten.loss >= 0.95 and not scores.any()


def test_the_query_is_forgotten_and_the_rest_less(tmp_path):
    """On the bundled model."""
    scenes = headwater.load_dataset("scenes").first(6)
    denoiser = Denoiser.load("scenes")
    session = Session(headwater.build_index(denoiser, scenes, tmp_path / "i", method="pixel-dot"))
    x0 = denoiser.encode_images([scenes.image(3)])
    target = unlearning.repeat_picture(denoiser, x0, scenes.samples[3].caption, seed=0, draws=2)
    options = Options(learning_rate=5e-4, batch=2, timesteps=1, steps=6)
    scores, _ = mucs.skew(session, target, 2, options)
    assert scores.mean(0).argmax() == 3 and scores.mean(0)[3] > 0


def test_nothing_predicted_has_this_loss(session):
    """By draws of noise, whatever is predicted."""
    x0 = 2 * torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    alpha_bar = torch.linspace(0.9, 0.1, 5)
    for prediction in ("epsilon", "v_prediction", "sample"):
        denoiser = type("", (), {"schedule": preserving(alpha_bar, prediction)})
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)).double()
        exact = [denoiser.schedule.asked(x0, noise, t).square().mean() for t in range(5)]
        found = mucs.null_loss(denoiser, x0)
        assert found == pytest.approx(torch.stack(exact).mean().item(), rel=0.02)


def test_which_weights_learn(session):
    names = list(mucs.forgetting_layers(session.denoiser))
    assert any("resnets" in name for name in names) and any(".ff." in name for name in names)
    assert not any(".attn" in name or "emb" in name for name in names)


@pytest.mark.parametrize("draws, timesteps", [(2, (649, 999)), (7, tuple(range(399, 1000, 100)))])
def test_draws_are_of_the_noisier_part(session, draws, timesteps):
    assert mucs.noisy_timesteps(session.denoiser, draws, 0.7) == timesteps


def test_a_rate_that_breaks_the_model_is_refused(session, target):
    before = state(session.denoiser)
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        mucs.skew(session, target, 2, replace(SMALL, learning_rate=1e200))
    assert unchanged(session.denoiser, before)
    assert all(p.requires_grad for p in session.denoiser.network.parameters())


def test_scores_do_not_depend_on_the_batch_and_losses_before_are_kept(session, target, monkeypatch):
    first, _ = mucs.skew(session, target, DRAWS, SMALL, batch_size=1)
    sweeps = []
    over = training_images.over_training_images

    def counted(resources, compute, batch_size=None, title="losses"):
        sweeps.append(title)
        return over(resources, compute, batch_size, title)

    monkeypatch.setattr(mucs, "over_training_images", counted)
    again, _ = mucs.skew(session, target, DRAWS, SMALL, batch_size=4)
    assert sweeps == ["losses after"]
    torch.testing.assert_close(again, first, rtol=1e-6, atol=1e-12)


# --- asked through an index -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        Concept("a red star in hatched style", concept="star", draws=2),
        Image("a red star", draws=2, steps=3),
    ],
    ids=["concept", "image"],
)
def test_any_index_answers_by_mucs(session, query, monkeypatch):
    monkeypatch.setattr(unlearning, "PICTURE_STEPS", 2)
    monkeypatch.setattr(mucs, "Options", lambda: SMALL)
    with pytest.warns(HeadwaterWarning, match="after 2 steps the query's loss is .* in part"):
        answer = session.attribute(query, method="mucs")
    assert answer.scores.std() > 0 and np.abs(answer.scores).max() < 1
    assert "by unlearning" in answer.asked and answer.certainty is not None
    assert json.dumps(answer.provenance["query"]["mucs"])
