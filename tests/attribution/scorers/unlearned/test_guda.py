"""GUDA beside models trained without each group; its ELBO beside posteriors by hand."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from support.tiny import PIXELS

from headwater import Denoiser, GroupedImage, Session, build_index, from_images, write_answers
from headwater.attribution.scorers.unlearned import guda, unlearning
from headwater.attribution.scorers.unlearned.guda import Options
from headwater.errors import HeadwaterWarning, MethodError
from headwater.models.schedule import flow

COLOURS, EACH = ((230, 40, 40), (60, 200, 60), (40, 60, 220)), 6
NAMES = ("red", "green", "blue")
# Stronger than published, for a model of a second.
STRONG = Options(
    learning_rate=2e-3,
    steps=20,
    batch=6,
    timesteps=1,
    weight=1.0,
    cap=float("inf"),
    neighbours=3,
    levels=8,
)


def picture(group, number):
    random = np.random.default_rng([group, number])
    pixels = np.array(COLOURS[group]) + random.normal(0, 12, (8, 8, 3))
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def trained(images, seed=0, steps=60):
    """A small model of pixels."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    network = UNet2DModel(in_channels=3, out_channels=3, add_attention=False, **PIXELS)
    model = Denoiser(DDPMPipeline(network, DDPMScheduler()))
    x0, schedule = model.encode_images(images), model.schedule
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for _ in range(steps):
        rows, t = torch.randint(len(images), (16,)), torch.randint(1000, (16,))
        noise = torch.randn(16, 3, 8, 8)
        a, s = (rate[t].float()[:, None, None, None] for rate in (schedule.a, schedule.s))
        loss = (network(a * x0[rows] + s * noise, t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def images():
    return [picture(group, i) for group in range(3) for i in range(EACH)]


@pytest.fixture(scope="module")
def session(tmp_path_factory, images):
    """Of a model that was trained, and lies in memory."""
    ids = [f"{name}-{i}" for name in NAMES for i in range(EACH)]
    data = from_images(images, [""] * len(images), ids=ids)
    out = tmp_path_factory.mktemp("guda") / "index"
    return Session(build_index(trained(images), data, out, method="pixel-dot"))


@pytest.fixture(scope="module")
def groups():
    return {name: [f"{name}-{i}" for i in range(EACH)] for name in NAMES}


# --- the scores -----------------------------------------------------------------------------------


def test_the_first_group_is_that_of_leaving_each_out(session, images, groups):
    """Pictures of each colour: models are trained again without each group, and asked."""
    grouping = GroupedImage(groups=groups).grouping(session.index.samples)
    denoiser = session.denoiser
    queries = [
        unlearning.repeat_picture(denoiser, denoiser.encode_images([picture(group, 50)]), "", 0, 4)
        for group in range(3)
    ]
    left = [trained(images[: EACH * g] + images[EACH * (g + 1) :]) for g in range(3)]
    for group, query in enumerate(queries):
        full = guda.negative_elbo(denoiser, query, STRONG)
        truth = [(guda.negative_elbo(model, query, STRONG) - full).mean() for model in left]
        found = guda.group_scores(session, query, grouping, STRONG).mean(0)
        assert found.argmax() == np.argmax(truth) == group


def test_an_image_has_its_groups_score(session, groups, tmp_path, monkeypatch):
    monkeypatch.setattr(guda, "Options", lambda: STRONG)
    file = tmp_path / "green.png"
    picture(1, 50).save(file)
    before = {n: w.clone() for n, w in session.denoiser.network.state_dict().items()}
    query = GroupedImage(file=file, groups=groups, draws=4)
    answer = session.attribute(query)  # no other method takes groups
    assert answer.method == "guda" and answer.certainty is not None
    scores = answer.scores.reshape(3, EACH)
    assert (scores == scores[:, :1]).all() and scores[:, 0].argmax() == 1
    table = answer.provenance["query"]["groups"]
    assert table[0]["group"] == "green" and table[0]["images"] == EACH
    assert table[0]["score"] == pytest.approx(scores[1, 0], rel=1e-5)
    assert answer.asked.startswith("of the picture by unlearning each group: green +")
    json.dumps(answer.provenance)
    after = session.denoiser.network.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    write_answers(session, [answer], tmp_path / "out", guidance=1.0, top=3)
    assert "Of the groups that count most" in (tmp_path / "out/report.html").read_text()
    monkeypatch.setattr(guda, "_unlearn", None)  # kept
    again = session.attribute(query)
    assert np.array_equal(again.scores, answer.scores)


def test_images_of_no_group_and_of_several(session, groups, tmp_path, monkeypatch):
    monkeypatch.setattr(guda, "Options", lambda: STRONG)
    both = {"green": groups["green"], "some": ["green-0", "red-0"]}
    file = tmp_path / "green.png"
    picture(1, 50).save(file)
    with pytest.warns(HeadwaterWarning) as said:
        answer = session.attribute(GroupedImage(file=file, groups=both, draws=2))
    assert [str(each.message) for each in said] == [
        "11 of 18 images are in no group: they rank last",
        "1 images are in several groups: their score is the mean of these",
    ]
    scores = dict(zip([s.id for s in session.index.samples], answer.scores, strict=True))
    assert sorted(one.id for one in answer.top(7)) == sorted({*groups["green"], "red-0"})
    assert len(answer.top(8)) == 7 and scores["blue-0"] == 0
    mean = (scores["green-1"] + scores["red-0"]) / 2
    assert scores["green-0"] == pytest.approx(mean, rel=1e-5)


def test_images_of_several_sizes_are_refused(session, groups, monkeypatch):
    grouping = GroupedImage(groups=groups).grouping(session.index.samples)
    monkeypatch.setattr(session.denoiser, "buckets", ((8, 8), (8, 16)))
    with pytest.raises(MethodError, match="has buckets: ask another method"):
        guda.group_scores(session, None, grouping)


# --- the ELBO -------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 49, 499, 998])
def test_a_weight_is_that_of_the_divergence_of_two_posteriors(session, t):
    """KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)), both of DDPM's posterior variance."""
    schedule = session.denoiser.schedule
    bars = schedule.alpha_bar
    beta = 1 - bars[t] / bars[t - 1]
    variance = beta * (1 - bars[t - 1]) / (1 - bars[t])
    of_x0 = beta * bars[t - 1].sqrt() / (1 - bars[t])  # of the posterior's mean
    error_in_x0 = (1 - bars[t]).sqrt() / bars[t].sqrt()  # of an error of 1 in the noise
    exact = (of_x0 * error_in_x0) ** 2 / (2 * variance)
    assert guda.elbo_weight(schedule, t) == pytest.approx(exact.item(), rel=1e-5)


def test_a_flow_has_weights_too():
    """1/2 (SNR' - SNR) of the error in x0, which is s times that of the velocity."""
    schedule = flow([0.25, 0.5])
    assert guda.elbo_weight(schedule, 1) == pytest.approx(0.5 * (9 - 1) * 0.25)
