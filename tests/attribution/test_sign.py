"""Positive means proponent: small steps of ordinary fine-tuning move the model as scores say.

On the bundled model and 160 of its training pictures. The gradients of fine-tuning come from plain
autograd on the weights, with the loss that the model was trained with and other noise than any
feature saw. What is asserted holds for most pictures and for the mean over concepts, not for each:
a score is an estimate, and the step is not preconditioned as the score is.
"""

import random

import numpy as np
import pytest
import torch
from support.tiny import as_calls

import headwater
from headwater.attribution.kernel import kernel_of
from headwater.evaluation.retraining.weights import shapes_first
from headwater.index.machines import extractor
from headwater.models.sampling import seeded_noise
from headwater.queries.words.prompts import without
from headwater.scenes.dataset import describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

TIMESTEPS = (199, 499, 799)
ROWS = 160


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    shown = headwater.load_dataset("scenes").first(ROWS)
    out = tmp_path_factory.mktemp("sign") / "index"
    model = headwater.Denoiser.load("scenes")
    index = headwater.build_index(model, shown, out, method="concept-trak-unguided", timesteps=5)
    return headwater.Session(index)


def weights(session):
    modules = dict(session.denoiser.network.named_modules())
    layers = session.index.recipe.layers
    return [p for name in layers for p in modules[name].parameters(recurse=False)]


def denoising_gradient(session, rows, draws):
    """Gradient of the model's training loss on these pictures, over many noises."""
    denoiser, index = session.denoiser, session.index
    x0 = denoiser.encode_images([index.image(row) for row in rows])
    x0 = x0.repeat(draws, *[1] * (x0.ndim - 1))
    condition = denoiser.encode_captions([index.samples[row].caption for row in rows] * draws)
    weighed, shape = shapes_first(denoiser.schedule), denoiser.latent_shape
    total = [torch.zeros_like(w) for w in weights(session)]
    for t in TIMESTEPS:
        noise = [seeded_noise(shape, "tune", t, r, draw) for draw in range(draws) for r in rows]
        noise = torch.stack(noise)
        eps = denoiser.predict(denoiser.schedule.noised(x0, noise, t), t, condition)
        loss = weighed[t] * (eps - noise).square().mean() / len(TIMESTEPS)
        for sum_, g in zip(total, torch.autograd.grad(loss, weights(session)), strict=True):
            sum_ += g
    return total


@torch.no_grad()
def after_step(session, gradient, measure, size=0.05):
    """What `measure` says after a step of this length against the gradient; then undone."""
    length = torch.stack([g.norm() for g in gradient]).norm()
    for w, g in zip(weights(session), gradient, strict=True):
        w -= size * g / length
    measured = measure()
    for w, g in zip(weights(session), gradient, strict=True):
        w += size * g / length
    return measured


def test_a_picture_is_a_proponent_of_learning_it(session):
    """A step of fine-tuning on one picture, taken as the query, has positive score with it."""
    index = session.index
    projection = extractor(session.denoiser, index.recipe).projection
    modules = dict(session.denoiser.network.named_modules())
    rows = list(range(0, ROWS, 16))
    steps = torch.zeros(len(rows), projection.dim)
    for step, row in zip(steps, rows, strict=True):
        parts = iter(denoising_gradient(session, [row], draws=8))
        for name in index.recipe.layers:
            own = [next(parts)[None] for _ in modules[name].parameters(recurse=False)]
            projection.add[name](step[None], as_calls(*own))
    (scores,) = kernel_of(index.blocks, len(index), projection.dim).trak(steps, [0.1])
    own = scores[range(len(rows)), rows]
    rank = (scores > own[:, None]).sum(1).float()
    assert (own > 0).float().mean() >= 0.75
    assert rank.median() < 3  # of 160


def concept_measure(session, word):
    """How far eps(c+) has moved along eps(c+) - eps(c-), on held-out pictures of the concept.

    To first order that is minus the concept loss (guidance.concept), in units of the concept
    itself: 1 would be another whole eps(c+) - eps(c-). Higher means more of the concept.
    """
    denoiser = session.denoiser
    shown = [p for p in pictures("validation") + pictures("unseen") if p.shows(word)][:16]
    captions = [describe(**{a: getattr(p.scene, a) for a in ATTRIBUTES}) for p in shown]
    x0 = denoiser.encode_images([p.draw() for p in shown])
    plus = denoiser.encode_captions(captions)
    minus = denoiser.encode_captions([without(caption, word) for caption in captions])
    points = []
    for t in TIMESTEPS:
        shape = denoiser.latent_shape
        noise = torch.stack([seeded_noise(shape, "held out", t, i) for i in range(len(shown))])
        xt = denoiser.schedule.noised(x0, noise, t)
        with torch.no_grad():
            before = denoiser.predict(xt, t, plus)
            points.append((t, xt, before, before - denoiser.predict(xt, t, minus)))

    whole = sum(direction.square().sum().item() for *_, direction in points)

    def measure():
        moved = [
            ((denoiser.predict(xt, t, plus) - before) * direction).sum().item()
            for t, xt, before, direction in points
        ]
        return sum(moved) / whole

    return measure


def test_proponents_raise_a_concept_and_opponents_lower_it(session):
    """A step on the top 16, on the bottom 16 and on 16 random pictures, over six concepts."""
    effects = []
    for word in ("star", "hatched", "red", "wavy", "neon", "blue"):
        measure = concept_measure(session, word)
        answer = session.attribute(headwater.Concept(word, concept=word, draws=8))
        chance = random.Random(word).sample(range(ROWS), 16)
        chosen = ([e.row for e in answer.top(16)], chance, [e.row for e in answer.bottom(16)])
        effects.append([
            after_step(session, denoising_gradient(session, rows, draws=1), measure)
            for rows in chosen
        ])  # fmt: skip
    top, chance, bottom = np.mean(effects, 0)
    assert top > 0 > bottom
    assert top > chance > bottom
