"""Every row of the table of methods, end to end, against a straightforward float64 computation.

Loops over samples, timesteps and draws; gradients by autograd of one number each; the formula of
the rule with an explicit inverse (`brute_force.exact_scores`). Nothing of the engine is used but
the seeded noise.
"""

import inspect
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from support.brute_force import exact_scores, relative_error
from support.command_line import FAST, headwater
from support.exact_curvature import Sums
from support.tiny import tiny_pipeline

from headwater import (
    Concept,
    Denoiser,
    GroupedImage,
    Session,
    build_index,
    from_images,
    load_dataset,
)
from headwater.attribution.scorers.gradient import setting_of
from headwater.attribution.scorers.table import SCORERS
from headwater.attribution.scorers.unlearned import guda, mucs, natural_gradient, unlearning
from headwater.attribution.scores import RULES
from headwater.features.batch import Batch
from headwater.features.extractor import Extractor, ProbeRow, mean_over_probes
from headwater.features.guidance import DELTAS
from headwater.features.spec import Side
from headwater.gradients.layers import size
from headwater.gradients.projection import make_projection
from headwater.methods.evidence import EVIDENCE, NOT_MEASURED, evidence
from headwater.methods.row import QUESTIONS, Method
from headwater.methods.table import METHODS
from headwater.models.sampling import seeded_noise
from headwater.queries.concept import CONCEPT_DELTAS
from headwater.queries.image import Image
from headwater.queries.preference import Pairs, Preference
from headwater.queries.reward import Reward, Scorer
from headwater.report.wording import WORDING
from headwater.runtime.batch_size import BatchSize

DOCS = Path(__file__).parents[1] / "docs"

PARAMETERS = r"attn2\.to_v"
TIMESTEPS = (499, 999)
ROWS, DRAWS, STEPS, GUIDANCE = 5, 2, 4, 3.0
PROMPT, CONCEPT, MINUS = "a red star in hatched style", "star", "a red in hatched style"
FILE = "train-00007.png"  # not among the rows


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model, tiny_images):
    """Two checkpoints in float64, five images, and a picture to ask about."""
    folder = tmp_path_factory.mktemp("methods")
    other = tiny_pipeline(folder / "other", seed=1)
    models = [Denoiser.load(each, dtype=torch.float64) for each in (tiny_model, other)]
    data = load_dataset(tiny_images).first(ROWS)
    return SimpleNamespace(
        folder=folder, models=models, other=other, data=data, file=tiny_images / FILE, rows={}
    )


# --- the independent computation ----------------------------------------------------------------


def weights(model):
    return [p for layer in model.layers(PARAMETERS).values() for p in layer.parameters()]


def flat_gradient(model, number):
    return torch.cat([g.flatten() for g in torch.autograd.grad(number, weights(model))])


@cache
def encoded(model, caption):
    return model.encode_captions([caption]).tensors


def predict(model, xt, t, caption):
    return model.network(xt, t, **encoded(model, caption)).sample


def alpha_bar(model, t):
    return model.pipe.scheduler.alphas_cumprod[t].double()


def signs(model, key):
    return seeded_noise(model.latent_shape, "output", key).sign().double()


def bound_weight(model, t):
    beta = model.pipe.scheduler.betas[t].double()
    return beta / (2 * (1 - beta) * (1 - alpha_bar(model, t)))


# The number whose gradient a feature is.
LOSSES = {
    "dsm": lambda model, eps, noise, t, key: (eps - noise).square().sum() / 2,
    "weighted": lambda model, eps, noise, t, key: (
        bound_weight(model, t) * (eps - noise).square().sum() / 2
    ),
    "square": lambda model, eps, noise, t, key: eps.square().sum() / 2,
    "mean": lambda model, eps, noise, t, key: eps.sum(),
    "l1": lambda model, eps, noise, t, key: eps.abs().sum(),
    "l2": lambda model, eps, noise, t, key: eps.norm(),
    "linf": lambda model, eps, noise, t, key: eps.abs().max(),
    "random": lambda model, eps, noise, t, key: (eps * signs(model, key)).sum(),
}


def dps_gradient(model, xt, t, caption, x0):
    """Of ||sg[eps + sqrt(1-abar) grad ||x0 - x0hat||^2] - eps||^2 / 2, and eps."""
    a, xt = alpha_bar(model, t), xt.detach().requires_grad_()
    eps = predict(model, xt, t, caption)
    x0hat = (xt - (1 - a).sqrt() * eps) / a.sqrt()
    (guide,) = torch.autograd.grad((x0 - x0hat).square().sum(), xt, retain_graph=True)
    target = (eps + (1 - a).sqrt() * guide).detach()
    return flat_gradient(model, (target - eps).square().sum() / 2), eps.detach()


def noised_probes(model, delta, x0, caption, id, timesteps):
    """(gradient, mse) at each timestep."""
    for t in timesteps:
        key = f"0|{id}|{t}|0"
        a, noise = alpha_bar(model, t), seeded_noise(x0.shape[1:], key).double()
        xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
        eps = predict(model, xt, t, caption)
        error = (eps - noise).square().mean().detach()
        if delta == "dps":
            yield dps_gradient(model, xt, t, caption, x0)[0], error
        else:
            yield flat_gradient(model, LOSSES[delta](model, eps, noise, t, key)), error


def inverted_probes(model, x0, caption, timesteps, guidance):
    """Each state from the one before, whose noise is out("") + w (out(c) - out(""))."""

    @torch.no_grad()
    def direction(xt, t):
        free, own = (predict(model, xt, t, words) for words in ("", caption))
        return free + guidance * (own - free)

    eps, clean = direction(x0, 0), x0
    for t in timesteps:
        a = alpha_bar(model, t)
        xt = a.sqrt() * clean + (1 - a).sqrt() * eps
        gradient, _ = dps_gradient(model, xt, t, caption, x0)
        eps = direction(xt, t)
        clean = (xt - (1 - a).sqrt() * eps) / a.sqrt()
        yield gradient, torch.tensor(0.0)


def slider_probes(model, draw):
    """The concept along a trajectory under c+."""
    xt = seeded_noise(model.latent_shape, 0, "trajectory", draw).double()[None]
    for t, following in zip(TIMESTEPS[::-1], (*TIMESTEPS[-2::-1], None), strict=True):
        eps = predict(model, xt, t, PROMPT)
        target = (2 * eps - predict(model, xt, t, MINUS)).detach()
        yield flat_gradient(model, (target - eps).square().sum() / 2), torch.tensor(0.0)
        if following is not None:
            a, b = alpha_bar(model, t), alpha_bar(model, following)
            clean = (xt - (1 - a).sqrt() * eps.detach()) / a.sqrt()
            xt = b.sqrt() * clean + (1 - b).sqrt() * eps.detach()


def contrast_probes(model, draw, base=PROMPT):
    """||eps||^2 / 2 under c+ and its negative under c-, along a trajectory under the base."""
    xt = seeded_noise(model.latent_shape, 0, "trajectory", draw).double()[None]
    for t, following in zip(TIMESTEPS[::-1], (*TIMESTEPS[-2::-1], None), strict=True):
        for caption, sign in ((PROMPT, 1), (MINUS, -1)):
            loss = sign * predict(model, xt, t, caption).square().sum() / 2
            yield flat_gradient(model, loss), torch.tensor(0.0)
        if following is not None:
            a, b = alpha_bar(model, t), alpha_bar(model, following)
            eps = predict(model, xt, t, base).detach()
            xt = b.sqrt() * (xt - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps


def mean_of(probes, normalise):
    """(the mean of w g over probes, their mses)."""
    gradients, errors = (torch.stack(each) for each in zip(*probes, strict=True))
    if normalise == "probe":
        gradients = gradients / gradients.norm(dim=1, keepdim=True)
    if normalise == "over_time":
        length = gradients.square().sum(0).sqrt()
        gradients = gradients / torch.where(length > 0, length, 1.0)
    return gradients.mean(0), errors


def probes_of(model, side, x0, caption, id, timesteps=TIMESTEPS):
    if side.path == "inversion":
        return inverted_probes(model, x0, caption, timesteps, side.guidance)
    return noised_probes(model, side.delta, x0, caption, id, timesteps)


def train_rows(world, model, method):
    """(features, residuals) of every image, one by one; kept for methods of the same side."""
    key = (id(model), method.train, method.normalise)
    if key not in world.rows:
        made = []
        for row, sample in enumerate(world.data.samples):
            x0 = model.encode_images([world.data.image(row)])
            probes = probes_of(model, method.train, x0, sample.caption, sample.id)
            made.append(mean_of(probes, method.normalise))
        world.rows[key] = [torch.stack(each) for each in zip(*made, strict=True)]
    return world.rows[key]


def image_draws(model, method, x0, timesteps=TIMESTEPS):
    count = 1 if method.query.path == "inversion" else DRAWS
    return torch.stack([
        mean_of(
            probes_of(model, method.query, x0, PROMPT, f"query|0|{draw}", timesteps),
            method.normalise,
        )[0]
        for draw in range(count)
    ])  # fmt: skip


def concept_draws(model, method):
    rows = [mean_of(slider_probes(model, draw), method.normalise)[0] for draw in range(DRAWS)]
    return torch.stack(rows)


def members(world, method):
    return world.models if method.checkpoints > 1 else world.models[:1]


def expected(world, method, draws_of):
    """Mean over checkpoints of the rule's scores."""
    found = []
    for model in members(world, method):
        phi, errors = train_rows(world, model, method)
        psi = draws_of(model)
        if method.curvature:
            psi = curvature(world, model).solved(psi, method.curvature, method.damping)
        found.append(exact_scores(method.rule, phi, psi, errors=errors))
    return sum(found) / len(found)


def curvature(world, model):
    """Of the images, by a random sign for each of the output's numbers at each probe."""
    if "curvature" not in world.rows:
        sums = Sums(model.layers(PARAMETERS))
        for row, sample in enumerate(world.data.samples):
            x0 = model.encode_images([world.data.image(row)])
            for t in TIMESTEPS:
                key = f"0|{sample.id}|{t}|0"
                a, noise = alpha_bar(model, t), seeded_noise(x0.shape[1:], key).double()
                xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
                caption, vector = sample.caption, signs(model, key)
                sums.add(lambda: (predict(model, xt, t, caption) * vector).sum())  # noqa: B023
        world.rows["curvature"] = sums
    return world.rows["curvature"]


# --- each method --------------------------------------------------------------------------------

GRADIENT = [name for name, m in METHODS.items() if m.train is not None and m.train.gradient]
ON_IMAGES = [name for name in GRADIENT if "image" in METHODS[name].takes and
             METHODS[name].query.path != "renoised"]  # fmt: skip
ON_CONCEPTS = [name for name in GRADIENT if "concept" in METHODS[name].takes and
               METHODS[name].concept is None]  # fmt: skip


def built(world, name):
    """An index for a method that keeps every parameter, made once."""
    out = world.folder / name
    method = METHODS[name]
    options = dict(timesteps=2, parameters=PARAMETERS, projection="identity")
    options = options if method.train.gradient else {}
    checkpoints = [world.other] if method.checkpoints > 1 else ()
    return build_index(
        world.models[0], world.data, out, method=name, checkpoints=checkpoints, **options
    )


def assert_scores(ours, exact, error=2e-3):
    """To the precision of rows in float16; and scores that differ from one another."""
    ours = torch.from_numpy(ours)
    assert relative_error(ours, exact) < error
    assert (exact - exact.mean()).norm() > 10 * error * exact.norm()


@pytest.mark.parametrize("name", ON_IMAGES)
def test_an_image_is_scored_as_the_formula_says(world, name):
    method = METHODS[name]
    answer = built(world, name).attribute(Image(PROMPT, world.file, draws=DRAWS), method=name)
    assert (answer.method, answer.provenance["rule"]) == (name, method.rule)
    x0 = world.models[0].encode_images([Pillow.open(world.file)])
    exact = expected(world, method, lambda model: image_draws(model, method, x0))
    assert_scores(answer.scores, exact)


@pytest.mark.parametrize("name", ON_CONCEPTS)
def test_a_concept_is_scored_as_the_formula_says(world, name):
    query = Concept(PROMPT, CONCEPT, context="prompt", draws=DRAWS)
    answer = built(world, name).attribute(query, method=name)
    method = METHODS[name]
    assert_scores(answer.scores, expected(world, method, lambda m: concept_draws(m, method)))


@pytest.mark.parametrize(
    "name", ["trak", "d-trak-l1", "das", "das-code", "concept-trak", "concept-trak-unguided"]
)
def test_rows_are_the_exact_gradients(world, name):
    """What is stored, but for float16."""
    index = built(world, name)
    phi, errors = train_rows(world, world.models[0], METHODS[name])
    ours = torch.cat(list(index.blocks())).double()
    assert ((ours - phi).norm(dim=1) < 1e-3 * phi.norm(dim=1)).all()
    residuals = index.residuals()
    if METHODS[name].train.path == "noising":
        torch.testing.assert_close(residuals.double(), errors, rtol=1e-5, atol=0)
    else:
        assert residuals is None


def x0hats(model, seed=0):
    """DDIM with guidance from the query's noise: what each step aims at."""
    xt = seeded_noise(model.latent_shape, seed, "query").double()[None]
    steps, found = (999, 749, 499, 249), {}
    with torch.no_grad():
        for t, following in zip(steps, (*steps[1:], None), strict=True):
            free, eps = (predict(model, xt, t, caption) for caption in ("", PROMPT))
            eps, a = free + GUIDANCE * (eps - free), alpha_bar(model, t)
            found[t] = (xt - (1 - a).sqrt() * eps) / a.sqrt()
            if following is not None:
                b = alpha_bar(model, following)
                xt = b.sqrt() * found[t] + (1 - b).sqrt() * eps
    return found


@pytest.mark.parametrize("step", [None, 249])
def test_journey_trak_renoises_what_each_step_aims_at(world, step):
    """At one step, or the mean over the index's steps; step 249 is none of the index's."""
    method, model = METHODS["journey-trak"], world.models[0]
    query = Image(PROMPT, step=step, draws=DRAWS, guidance=GUIDANCE, steps=STEPS)
    answer = built(world, "journey-trak").attribute(query)
    aims = x0hats(model)
    steps = TIMESTEPS if step is None else (step,)
    psi = sum(image_draws(model, method, aims[t], (t,)) for t in steps) / len(steps)
    assert_scores(answer.scores, expected(world, method, lambda _: psi))


@pytest.mark.parametrize("name", ["trak", "d-trak"])
def test_one_step_of_other_methods_is_the_picture_at_that_timestep(world, name):
    method, model = METHODS[name], world.models[0]
    query = Image(PROMPT, step=249, draws=DRAWS, guidance=GUIDANCE, steps=STEPS)
    answer = built(world, name).attribute(query)
    psi = image_draws(model, method, x0hats(model)[249], (249,))
    assert_scores(answer.scores, expected(world, method, lambda _: psi))


@pytest.mark.parametrize("base", [None, "a house"])
def test_a_contrast_is_of_outputs_under_both_prompts(world, base):
    method = METHODS["concept-d-trak"]
    query = Concept(PROMPT, CONCEPT, base=base, context="prompt", draws=DRAWS)
    answer = built(world, method.name).attribute(query, method=method.name)
    phi, _ = train_rows(world, world.models[0], method)
    psi = torch.stack([
        mean_of(contrast_probes(world.models[0], draw, base or PROMPT), "none")[0]
        for draw in range(DRAWS)
    ])  # fmt: skip
    assert_scores(answer.scores, exact_scores("trak", phi, psi))


def test_captions_ask_by_the_images_that_they_name(world):
    """The mean of the rows of those whose caption names it, less the mean of the others."""
    method = METHODS["caption-d-trak"]
    answer = built(world, method.name).attribute(
        Concept("a red heart", "heart"), method=method.name
    )
    named = torch.tensor(["heart" in sample.caption.split() for sample in world.data.samples])
    assert 0 < named.sum() < ROWS
    phi, _ = train_rows(world, world.models[0], method)
    psi = (phi[named].mean(0) - phi[~named].mean(0))[None]
    assert_scores(answer.scores, exact_scores("trak", phi, psi))


@pytest.mark.parametrize("name", ["pixel-dot", "pixel-cosine"])
def test_pixels_are_latents(world, name):
    model, data = world.models[0], world.data
    phi = torch.cat([model.encode_images([data.image(row)]).flatten(1) for row in range(ROWS)])
    psi = model.encode_images([Pillow.open(world.file)]).flatten(1)
    answer = built(world, name).attribute(Image(file=world.file))
    assert_scores(answer.scores, exact_scores(METHODS[name].rule, phi, psi))
    assert answer.certainty is None


def test_random_is_decided_by_the_seed_alone(world):
    index, query = built(world, "trak"), Image(PROMPT, world.file)
    first = index.attribute(query, method="random").scores
    assert np.array_equal(index.attribute(query, method="random", fresh=True).scores, first)
    other = index.attribute(replace(query, seed=1), method="random").scores
    concept = index.attribute(Concept(PROMPT, CONCEPT), method="random").scores
    assert len({tuple(scores) for scores in (first, other, concept)}) == 3
    assert len(set(first)) == ROWS


def test_methods_of_one_train_side_share_an_index(world):
    """The index of one answers for the others as their own would."""
    shared, query = built(world, "trak"), Image(PROMPT, world.file, draws=DRAWS)
    same = {name for name, m in METHODS.items() if m.train == METHODS["trak"].train
            and m.normalise == "none" and not m.curvature and m.checkpoints == 1}  # fmt: skip
    assert same | {"unlearning", "mucs", "guda", "nda", "presence", "random"} == set(
        shared.methods()
    )
    for name in ("gradient-cosine", "renormalised-influence"):
        own = built(world, name).attribute(query).scores
        np.testing.assert_allclose(shared.attribute(query, method=name).scores, own, rtol=1e-5)


# --- the mean over probes -----------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0, 0.5)], ids=["alike", "weighted"])
@pytest.mark.parametrize("normalise", ["none", "probe", "over_time"])
def test_the_mean_over_probes_in_explicit_loops(normalise, weights):
    made = torch.randn(4, 3, 6).double() * torch.logspace(-3, 3, 4)[:, None, None]
    made[:, 1, 2] = 0  # a feature without a gradient stays zero
    norms, errors = torch.rand(4, 3).double() + 1, torch.rand(4, 3).double()
    # `norms` are of two layers, unprojected, and so not those of the features.
    layers = [{"a": norm * 0.6, "b": norm * 0.8} for norm in norms]
    rows = [ProbeRow(f.clone(), n, e) for f, n, e in zip(made, layers, errors, strict=True)]
    ours = mean_over_probes(rows, normalise, weights)
    weights = weights or (1,) * 4
    exact = torch.zeros(3, 6).double()
    for i in range(3):
        for j in range(6):
            for p in range(4):
                length = {
                    "none": 1,
                    "probe": norms[p, i],
                    "over_time": sum((weights[q] * made[q, i, j]) ** 2 for q in range(4)) ** 0.5,
                }[normalise]
                exact[i, j] += weights[p] * made[p, i, j] / (length or 1) / 4
    torch.testing.assert_close(ours.features, exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.residuals, errors.T)


def extractor_of(model, side, normalise, draws=1):
    layers = model.layers(PARAMETERS)
    kept = make_projection("identity", layers, sum(map(size, layers.values())), 0)
    return Extractor(model, layers, kept, side, TIMESTEPS, normalise, 0, draws)


@pytest.mark.parametrize("normalise", ["none", "probe", "over_time"])
def test_a_row_of_several_draws_is_the_mean_of_its_probes(world, normalise):
    """Residuals are the mse of each, timestep by timestep and draw by draw; a batch is no matter"""
    model, captions, ids = world.models[0], ["a red star", "a fish"], ["a", "b"]
    x0, condition = torch.randn(2, 4, 8, 8).double(), model.encode_captions(captions)
    machine = extractor_of(model, Side("noising", "dsm"), normalise, draws=3)
    ours = machine.train_rows(Batch(x0, condition, ids))
    for i, id in enumerate(ids):
        probes = []
        for t in TIMESTEPS:
            for draw in range(3):
                noise = seeded_noise((4, 8, 8), f"0|{id}|{t}|{draw}").double()
                a = alpha_bar(model, t)
                xt = a.sqrt() * x0[i : i + 1] + (1 - a).sqrt() * noise
                eps = predict(model, xt, t, captions[i])
                error = (eps - noise).square().mean()
                loss = LOSSES["dsm"](model, eps, noise, t, "")
                probes.append((flat_gradient(model, loss), error.detach()))
        exact, errors = mean_of(probes, normalise)
        assert (ours.features[i] - exact).norm() <= 1e-9 * exact.norm()
        torch.testing.assert_close(ours.residuals[i], errors)
        alone = machine.train_rows(Batch(x0[i : i + 1], condition[i : i + 1], [id]))
        torch.testing.assert_close(alone.features[0], ours.features[i])
        torch.testing.assert_close(alone.residuals[0], ours.residuals[i])


# --- a method of one's own ----------------------------------------------------------------------


def add_toy(patch):
    """Cubes of the prediction, scored by cosine."""

    def cube(denoiser, probe, x0):
        return probe.out.detach() ** 3  # the gradient of sum eps^4 / 4

    side = Side("noising", "cube")
    toy = Method("toy", "nobody", side, side, "cosine", ("image", "patch"))
    patch.setitem(DELTAS, "cube", cube)
    patch.setitem(METHODS, "toy", toy)


def test_a_toy_method_takes_less_than_twenty_lines(world, tiny_model, tiny_images, monkeypatch):
    """One row and one function, and it works from the command line."""
    assert len(inspect.getsource(add_toy).splitlines()) < 20
    monkeypatch.setitem(LOSSES, "cube", lambda model, eps, *_: eps.pow(4).sum() / 4)
    add_toy(monkeypatch)
    out, answer = world.folder / "toy", world.folder / "toy-answer"
    keep = ["--parameters", PARAMETERS, "--projection", "identity", "--timesteps", 2]
    rest = ["--method", "toy", "--limit", ROWS, *keep]
    result = headwater("index", tiny_model, tiny_images, out, *rest)
    assert result.code == 0, result.err
    ask = ["--prompt", PROMPT, "--draws", DRAWS, "--out", answer, "--json"]
    result = headwater("image", out, world.file, *ask)
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert said["method"] == "toy" and said["provenance"]["rule"] == "cosine"
    x0 = world.models[0].encode_images([Pillow.open(world.file)])
    toy = METHODS["toy"]
    exact = expected(world, toy, lambda model: image_draws(model, toy, x0))
    ids = [sample.id for sample in world.data.samples]
    for entry in said["results"][0]["top"]:
        assert entry["score"] == pytest.approx(exact[ids.index(entry["id"])].item(), abs=1e-2)
    assert "toy" in {row["name"] for row in json.loads(headwater("methods", "--json").out)}
    assert "there is no method 'toys'" in headwater("index", tiny_model, tiny_images,
        world.folder / "toys", *FAST, "--method", "toys").err  # fmt: skip


# --- what it costs ------------------------------------------------------------------------------


@pytest.fixture
def passes(world, monkeypatch):
    """Counts passes of the network, forward and back, in samples."""
    model, counted = world.models[0], SimpleNamespace(count=0)
    forward, grad = type(model.network).forward, torch.autograd.grad

    def counting_forward(self, xt, *args, **given):
        counted.count += len(xt)
        return forward(self, xt, *args, **given)

    def counting_grad(outputs, *args, **given):
        if outputs.shape[1:] == model.latent_shape:  # from eps, not within the autoencoder
            counted.count += len(outputs)
        return grad(outputs, *args, **given)

    monkeypatch.setattr(type(model.network), "forward", counting_forward)
    monkeypatch.setattr(torch.autograd, "grad", counting_grad)
    return counted


@pytest.mark.parametrize(
    "name", ["concept-trak", "concept-trak-unguided", "concept-trak-b", "trak", "d-trak"]
)
def test_an_image_costs_what_the_table_says(world, passes, name):
    side = METHODS[name].train
    machine = extractor_of(world.models[0], side, "none")
    x0, c = torch.randn(3, 4, 8, 8).double(), world.models[0].encode_captions(["a fish"] * 3)
    machine.train_rows(Batch(x0, c, ["a", "b", "c"]))
    assert passes.count == 3 * side.units(2) > 0


def pairs(world):
    winners, losers = (
        from_images([world.data.image(row) for row in rows], [""] * 2) for rows in ((0, 1), (2, 3))
    )
    return Pairs("pairs", winners, losers, ((0, 0), (1, 1)))


QUERIES = {
    "concept": lambda world: Concept("a red heart", "heart", draws=DRAWS),
    "reward": lambda world: Reward(PROMPT, Scorer("red", "red", lambda p: p[:, 0].mean((1, 2))), 2),
    "preference": lambda world: Preference(pairs(world)),
    "image": lambda world: Image(PROMPT, world.file, draws=DRAWS),
    "step": lambda world: Image(PROMPT, step=249, draws=DRAWS, steps=STEPS),
}


@pytest.mark.parametrize(
    "name, question",
    [
        *(("concept-trak", question) for question in ("concept", "reward", "preference", "image")),
        *(("concept-trak-unguided", question) for question in ("preference", "image")),
        *(("trak", question) for question in ("image", "step")),
        ("journey-trak", "step"),
        ("concept-trak-b", "image"),
        ("pixel-dot", "image"),
        ("concept-d-trak", "concept"),
        ("caption-d-trak", "concept"),
    ],
)
def test_a_question_costs_what_the_table_says(world, passes, name, question):
    session, query = Session(built(world, name)), QUERIES[question](world)
    if isinstance(query, Image):
        session.picture(query)
    method = METHODS[name]
    cost = method.cost(question, timesteps=2)
    draws = cost.draws if cost.draws == 1 else DRAWS  # as asked; two pairs
    passes.count = 0
    if method.scorer == "gradient":
        drawer, extractor = query.drawer(setting_of(session, method, query)), session.extractor()
        extractor.query_rows(drawer.objectives(extractor, range(draws)))
    else:
        session.attribute(query, method=name)
    assert passes.count == cost.draw * draws


def test_what_unlearning_costs(world, passes, monkeypatch):
    """Each draw's loss there and back, and a concept's its picture; the loss of each image."""

    def without_a_trial(batch, _):
        batch.size, batch._unknown = 32, False

    monkeypatch.setattr(BatchSize, "_find", without_a_trial)
    index = build_index(world.models[0], world.data, world.folder / "plain", method="pixel-dot")
    session, method, counted = Session(index), METHODS["unlearning"], []
    image = Image(PROMPT, world.file, draws=DRAWS)
    for query in (image, image, QUERIES["concept"](world)):
        passes.count = 0
        session.attribute(query, method="unlearning")
        cost = method.cost(query.kind)
        counted.append(passes.count - cost.draw * DRAWS - cost.image * ROWS)
    losses, fisher = method.facts()["units per image"] * ROWS, 2 * 4 * ROWS
    assert counted == [losses + fisher, 0, 0]  # before the first question
    assert 2 * 4 * natural_gradient.FISHER_IMAGES == 2048 and unlearning.DRAWS == 32


def test_what_mucs_and_guda_cost(world, passes, monkeypatch):
    """The losses of each image, before and after; a picture under the model, and each group's."""

    def without_a_trial(batch, _):
        batch.size, batch._unknown = 32, False

    monkeypatch.setattr(BatchSize, "_find", without_a_trial)
    monkeypatch.setattr(mucs, "forget", lambda *_: mucs.Forgotten(1, 1.0))
    monkeypatch.setattr(guda, "_unlearn", lambda *_: None)
    index = build_index(world.models[0], world.data, world.folder / "costs", method="pixel-dot")
    session, method, counted = Session(index), METHODS["mucs"], []
    image = Image(PROMPT, world.file, draws=DRAWS)
    for query in (image, image, QUERIES["concept"](world)):
        passes.count = 0
        session.attribute(query, method="mucs")
        cost = method.cost(query.kind)
        counted.append(passes.count - cost.draw * DRAWS - cost.image // cost.draws * DRAWS * ROWS)
    assert counted == [DRAWS * ROWS, 0, 0]  # before the first question
    passes.count = 0
    groups = {name: [world.data.samples[row].id] for row, name in enumerate("abcdefgh"[:ROWS])}
    session.attribute(GroupedImage(PROMPT, world.file, draws=DRAWS, groups=groups))
    cost = METHODS["guda"].cost("groups")
    assert passes.count == (1 + len(groups)) * cost.draw * DRAWS


# --- the table itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_row_names_what_there_is(name):
    method = METHODS[name]
    assert method.name == name and set(method.takes) <= set(QUESTIONS)
    assert method.scorer in SCORERS and method.measure in WORDING
    # Scorers without rows of features have a rule of their own, of their name.
    assert method.rule in ({method.scorer} if method.train is None else RULES)
    if method.alias_of:
        assert replace(method, name=method.alias_of, alias_of="") == METHODS[method.alias_of]
    assert method.part is None or ("patch" in method.takes and method.part.path == "noising")
    for side in (method.train, method.query):
        if side is not None and side.gradient:
            assert side.delta in DELTAS and side.path in ("noising", "inversion", "renoised")
    if method.concept is not None:
        assert "concept" in method.takes
        by_captions = method.concept.path == "captions"
        assert by_captions == (method.scorer == "captions")
        assert by_captions or method.concept.delta in CONCEPT_DELTAS
    # None where it takes no picture
    assert (method.query is None) == (
        not {"image", "patch"} & set(method.takes) or name == "random"
    )
    if method.rule.startswith("das"):
        assert method.train.path == "noising"  # das needs residuals


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].sooner])
def test_a_first_answer_is_by_a_method_of_the_same_rows(name):
    """And takes every question that the whole answer takes."""
    whole, sooner = METHODS[name], METHODS[METHODS[name].sooner]
    assert set(whole.takes) <= set(sooner.takes)
    for column in ("train", "normalise", "curvature"):
        assert getattr(whole, column) == getattr(sooner, column), column
    assert not sooner.slow and not sooner.sooner


def test_what_was_measured_stands_in_the_docs():
    """Each number, word for word, of methods that there are."""
    pages = "".join((DOCS / name).read_text() for name in ("methods.md", "results.md"))
    assert set(EVIDENCE) <= set(METHODS)
    for method, said in EVIDENCE.items():
        for number in re.findall(r"\d+\.\d+", said):
            assert re.search(rf"\b{re.escape(number)}\b", pages), (method, number)
    assert evidence("gradient-dot") == NOT_MEASURED
