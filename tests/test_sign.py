"""Positive means proponent: small steps of ordinary fine-tuning move the model as scores say.

On the bundled model and 400 of its training pictures. The gradients of fine-tuning come from plain
autograd on the weights, with other noise than any feature saw.
"""

import random

import numpy as np
import pytest
import torch

import headwater
from headwater.kernel import spectrum, trak_scores
from headwater.probes import seeded_noise
from headwater.prompts import without
from headwater.recipe import extractor
from headwater.scenes.data import describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

TIMESTEPS = (49, 149, 249, 349, 449, 549, 649, 749, 849, 949)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    shown = headwater.load_dataset("scenes").first(400)
    out = tmp_path_factory.mktemp("sign") / "index"
    return headwater.build_index(headwater.Denoiser.load("scenes"), shown, out)


def weights(index):
    modules = dict(index.denoiser.network.named_modules())
    return [p for name in index.recipe.layers for p in modules[name].parameters(recurse=False)]


def denoising_gradient(index, rows, draws):
    """Gradient of the usual training loss on these pictures, over many noises."""
    denoiser = index.denoiser
    x0 = denoiser.encode_images([index.image(row) for row in rows])
    condition = denoiser.encode_captions([index.samples[row].caption for row in rows])
    total = [torch.zeros_like(w) for w in weights(index)]
    for draw in range(draws):
        for t in TIMESTEPS:
            shape = denoiser.latent_shape
            noise = torch.stack([seeded_noise(shape, "tune", t, r, draw) for r in rows])
            eps = denoiser.predict(denoiser.noise(x0, noise, t), t, condition)
            loss = (eps - noise).square().mean() / (draws * len(TIMESTEPS))
            for sum_, g in zip(total, torch.autograd.grad(loss, weights(index)), strict=True):
                sum_ += g
    return total


@torch.no_grad()
def after_step(index, gradient, measure, size=0.05):
    """What `measure` says after a step of this length against the gradient; then undone."""
    length = torch.stack([g.norm() for g in gradient]).norm()
    for w, g in zip(weights(index), gradient, strict=True):
        w -= size * g / length
    measured = measure()
    for w, g in zip(weights(index), gradient, strict=True):
        w += size * g / length
    return measured


@pytest.mark.parametrize("row", [3, 77, 200, 311])
def test_a_picture_is_a_proponent_of_learning_it(index, row):
    """A step of fine-tuning on one picture, taken as the query, has positive score with it."""
    gradient = denoising_gradient(index, [row], draws=20)
    sketch = extractor(index.denoiser, index.recipe).sketch
    step = torch.zeros(1, sketch.dim)
    parts = dict(zip(map(id, weights(index)), gradient, strict=True))
    modules = dict(index.denoiser.network.named_modules())
    for name in index.recipe.layers:
        own = [parts[id(p)].flatten() for p in modules[name].parameters(recurse=False)]
        sketch.add(step, name, torch.cat(own)[None])
    found = spectrum(index.blocks, len(index), sketch.dim)
    scores = trak_scores(index.blocks, found, step, damping=0.1)[0]
    assert scores[row] > 0
    assert (scores > scores[row]).sum() < 20  # and stands out among the 400


def concept_measure(index, word):
    """How far eps(c+) has moved along eps(c+) - eps(c-), on held-out pictures of the concept.

    That is minus the concept loss (METHODS of docs/architecture.md: delta `concept`) to first
    order: higher means that the model now puts more of the concept into such pictures.
    """
    denoiser = index.denoiser
    shown = [p for p in pictures("validation") + pictures("unseen") if p.shows(word)][:40]
    captions = [describe(**{a: getattr(p.scene, a) for a in ATTRIBUTES}) for p in shown]
    x0 = denoiser.encode_images([p.draw() for p in shown])
    plus = denoiser.encode_captions(captions)
    minus = denoiser.encode_captions([without(caption, word) for caption in captions])
    points = []
    for t in TIMESTEPS:
        shape = denoiser.latent_shape
        noise = torch.stack([seeded_noise(shape, "held out", t, i) for i in range(len(shown))])
        xt = denoiser.noise(x0, noise, t)
        with torch.no_grad():
            before = denoiser.predict(xt, t, plus)
            points.append((t, xt, before, before - denoiser.predict(xt, t, minus)))

    def measure():
        return np.mean([
            ((denoiser.predict(xt, t, plus) - before) * direction).sum().item()
            for t, xt, before, direction in points
        ])  # fmt: skip

    return measure


@pytest.mark.parametrize("word", ["star", "hatched"])
def test_proponents_raise_the_concept_and_opponents_lower_it(index, word):
    """A step on the top 20 against steps on 20 random pictures and on the bottom 20."""
    scene = next(p.scene for p in pictures("validation") if p.shows(word))
    prompt = describe(**{a: getattr(scene, a) for a in ATTRIBUTES})
    answer = index.attribute(headwater.Concept(prompt, concept=word))
    measure = concept_measure(index, word)

    def effect(rows):
        return after_step(index, denoising_gradient(index, rows, draws=2), measure)

    rng = random.Random(0)
    top = effect([entry.row for entry in answer.top(20)])
    bottom = effect([entry.row for entry in answer.bottom(20)])
    chance = np.mean([effect(rng.sample(range(len(index)), 20)) for _ in range(3)])
    assert top > 0 > bottom
    assert top > chance > bottom
