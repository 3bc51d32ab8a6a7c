"""Questions about outputs: rows are the gradients of the losses that they are named after."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from support.exact_gradients import gradient, unprojected
from support.tiny import tiny_folder

from headwater import (
    Contribution,
    Denoiser,
    Loss,
    Session,
    build_index,
    from_images,
    load_dataset,
)
from headwater.attribution.pictures import training_images
from headwater.attribution.scorers.gradient import setting_of
from headwater.errors import DatasetError, MethodError, QueryError
from headwater.index.index import Index
from headwater.methods.table import METHODS
from headwater.models.sampling import seeded_noise

PROMPT, WORD, WITHOUT = "a red star", "star", "a red"
TIMESTEPS = (499, 999)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("outputs") / "images", 12)


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model, folder):
    model = Denoiser.load(tiny_model, dtype=torch.float64)
    out = tmp_path_factory.mktemp("outputs") / "index"
    return Session(
        build_index(model, load_dataset(folder), out, method="trak", timesteps=2, dim=64)
    )


@pytest.fixture(scope="module")
def pictures():
    drawn = [Pillow.new("RGB", (16, 16), colour) for colour in ("red", "gold", "green")]
    captions = [PROMPT, "a golden star on a wall", "something else"]
    return from_images(drawn, captions)


def drawer_of(session, query):
    setting = setting_of(session, METHODS["trak"], query)
    return query.drawer(replace(setting, images=training_images(session.index)))


def loss(model, x0, caption, key, timesteps=TIMESTEPS):
    """The sum over timesteps of ||eps - e||^2 / 2."""
    total = 0
    for t in timesteps:
        a = model.pipe.scheduler.alphas_cumprod[t].double()
        noise = seeded_noise(x0.shape[1:], f"0|{key}|{t}|0").double()
        xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
        condition = model.encode_captions([caption])
        eps = model.network(xt, t, **condition.tensors).sample
        total = total + (eps - noise).square().sum() / 2
    return total


@pytest.mark.parametrize("kind", [Contribution, Loss])
def test_a_row_is_the_gradient_of_the_output(session, pictures, kind):
    """By one backward pass of plain autograd; of a contribution its negative.

    Each draw has two pictures, one at each of the two timesteps.
    """
    model = session.denoiser
    query = kind(PROMPT, WORD, pictures=pictures, draws=5)
    drawer = drawer_of(session, query)
    machine = unprojected(model, TIMESTEPS)
    ours = machine.query_rows(drawer.objectives(machine, range(5)))
    own = {PROMPT: WITHOUT, "a golden star on a wall": "a golden on a wall"}
    probes = 4 if kind is Contribution else 2
    for draw in range(5):
        number = 0
        for row, t in zip(drawer.shown.order[2 * draw : 2 * draw + 2], TIMESTEPS, strict=True):
            caption = pictures.samples[row].caption
            caption = caption if caption in own else PROMPT  # it does not name the star
            x0 = model.encode_images([pictures.image(row)])
            number = number + loss(model, x0, caption, f"output|0|{draw}", [t])
            if kind is Contribution:
                number = number - loss(model, x0, own[caption], f"output|0|{draw}", [t])
        exact = gradient(model, number) / probes
        assert (ours[draw] - exact).norm() < 1e-8 * exact.norm()
    assert drawer.probes(machine) == probes


def test_a_proponent_lowers_the_loss(session, pictures):
    """A small step of training on a picture changes the output's losses as the score says."""
    model, query = session.denoiser, Loss(PROMPT, WORD, pictures=pictures, draws=3)
    drawer, machine = drawer_of(session, query), unprojected(model, TIMESTEPS)
    row = machine.query_rows(drawer.objectives(machine, range(3))).mean(0)
    own = gradient(model, loss(model, model.encode_images([pictures.image(0)]), PROMPT, "learned"))

    def asked():
        parts = []
        for number, (caption, _) in enumerate(drawer.shown.pairs(range(6))):
            x0 = model.encode_images([pictures.image(drawer.shown.order[number])])
            key, t = f"output|0|{number // 2}", TIMESTEPS[number % 2]
            parts.append(loss(model, x0, caption, key, [t]).item())
        return sum(parts) / 3

    before, size = asked(), 1e-4 / own.norm().item()
    weights = [p for layer in model.layers("attn2").values() for p in layer.parameters()]
    step = [part.reshape(p.shape) * size for part, p in
            zip(own.split([p.numel() for p in weights]), weights, strict=True)]  # fmt: skip
    with torch.no_grad():
        for p, part in zip(weights, step, strict=True):
            p -= part
    change = asked() - before
    with torch.no_grad():
        for p, part in zip(weights, step, strict=True):
            p += part
    predicted = -size * (row @ own).item() * len(TIMESTEPS)
    assert change == pytest.approx(predicted, rel=1e-2)
    assert (row @ own > 0) == (change < 0)


def test_every_given_picture_comes_before_any_comes_twice(session, pictures):
    shown = drawer_of(session, Loss(PROMPT, WORD, pictures=pictures, draws=7)).shown
    assert shown.a_draw == 2 and len(shown.order) == 14
    assert sorted(shown.order[:3]) == [0, 1, 2] == sorted(shown.order[3:6])
    assert shown.words(7).startswith("3 pictures of") and shown.words(1).startswith("1 picture of")
    other = drawer_of(session, Loss(PROMPT, WORD, pictures=pictures, draws=7, seed=4)).shown
    assert shown.order != other.order


def test_pictures_are_made_under_the_contexts_of_a_concept(session):
    query = Contribution(PROMPT, WORD, context="bare", draws=3, guidance=2.0)
    drawer = drawer_of(session, query)
    assert drawer.shown.pairs([0, 1]) == [(WORD, "")] * 2
    asked = drawer.shown.asked(2)
    assert (asked.prompt, asked.seed, asked.guidance, asked.steps) == (WORD, 2, 2.0, 25)
    x0 = drawer.shown.latents(session.denoiser, [2, 0])
    alone = [session.picture(drawer.shown.asked(draw)).x0 for draw in (2, 0)]
    torch.testing.assert_close(x0, torch.cat(alone))
    answer = session.attribute(query)
    assert "by what its words gain on pictures that the model makes of it" in answer.asked
    assert np.isfinite(answer.scores).all()


@pytest.fixture(scope="module")
def named(tmp_path_factory, tiny_model):
    """A session on images of which five name the concept, one of them in its second caption."""
    captions = [(PROMPT,), ("a circle",), ("a star",), ("it", "a blue star"), ("a square",)]
    captions += [("stars",), ("a green star",), ("a starless night", "my star")]
    drawn = [Pillow.effect_noise((16, 16), 10 * (i + 1)).convert("RGB") for i in range(8)]
    images = from_images(drawn, captions)
    out, model = tmp_path_factory.mktemp("named") / "index", Denoiser.load(tiny_model)
    built = build_index(model, images, out, method="ekfac", timesteps=2, dim=32)
    return Session(built)


def test_training_images_that_name_the_concept_are_asked_on(named):
    """One in each draw: of so few a draw with two would be nearly half of them."""
    drawer = drawer_of(named, Contribution(PROMPT, WORD, draws=7))
    rows = [row for (row,) in drawer.training_rows]
    assert sorted(rows[:5]) == [0, 2, 3, 6, 7]
    assert set(rows[5:]) < {0, 2, 3, 6, 7}
    pairs = {(0, (PROMPT, WITHOUT)), (2, ("a star", "")), (3, ("a blue star", "a blue"))}
    pairs |= {(6, ("a green star", "a green")), (7, ("my star", "my"))}
    assert set(zip(rows, drawer.shown.pairs(range(7)), strict=True)) == pairs
    x0 = drawer.shown.latents(named.denoiser, range(2))
    own = [named.index.training_set.image(row) for row in rows[:2]]
    assert torch.equal(x0, named.denoiser.encode_images(own))


def test_an_image_is_not_asked_about_on_its_own_picture(named):
    """Its score is what the other images alone say of it, asked as pictures that are given."""
    ids = [sample.id for sample in named.index.samples]
    query = Contribution(PROMPT, WORD, draws=5)
    rows = drawer_of(named, query).training_rows
    answer = named.attribute(query, method="ekfac")
    assert "on 5 training images that name it, each scored by the others" in answer.asked
    assert answer.feature is None
    drawn = drawer_of(named, query)
    machine = named.extractor([METHODS["ekfac"].damping])
    by_draw = [machine.query_rows(drawn.objectives(machine, [draw]))[0] for draw in range(5)]
    phi = torch.cat(list(named.index.blocks())).double()
    for image in range(len(ids)):
        others = [row.double() for row, of in zip(by_draw, rows, strict=True) if image not in of]
        mean = torch.stack(others).mean(0) @ phi[image]
        assert answer.scores[image] == pytest.approx(mean.item(), rel=1e-3)


def test_an_image_is_not_asked_about_on_its_own_file_under_another_id(named):
    """As a table with a row for each caption has it; another caption need not name the concept."""
    index = named.index
    (one, other, *others) = index.samples
    samples = [one, replace(other, uri=one.uri), *others]
    images = replace(index.training_set, samples=samples)
    query = Contribution(PROMPT, WORD, draws=5)
    setting = replace(setting_of(named, METHODS["ekfac"], query), images=images)
    rows = query.drawer(setting).training_rows
    assert sorted(map(sorted, rows)) == [[0, 1], [2], [3], [6], [7]]
    samples = [replace(each, uri=one.uri) for each in samples]
    made = query.drawer(replace(setting, images=replace(images, samples=samples)))
    assert made.shown.words(2) == "pictures that the model makes of it"
    unknown = [replace(each, uri="") for each in samples]
    drawer = query.drawer(replace(setting, images=replace(images, samples=unknown)))
    assert sorted(map(sorted, drawer.training_rows)) == [[0], [2], [3], [6], [7]]


def test_a_draw_is_shared_out_among_images(tmp_path, tiny_model):
    """No more than a quarter of them, and no more than there are timesteps."""
    drawn = [Pillow.effect_noise((16, 16), 10 * (i + 1)).convert("RGB") for i in range(14)]
    images = from_images(drawn, [f"a star, {number}" for number in range(14)])
    built = build_index(
        Denoiser.load(tiny_model), images, tmp_path, method="ekfac", timesteps=4, dim=32
    )
    session, query = Session(built), Contribution(PROMPT, WORD, draws=6)
    drawer = drawer_of(session, query)
    rows = drawer.training_rows
    assert [len(each) for each in rows] == [3] * 6
    assert len(set().union(*rows[:4])) == 12  # all before any comes twice
    answer = session.attribute(query, method="ekfac")
    assert "on 14 training images that name it, each scored by the others" in answer.asked
    machine, phi = session.extractor([METHODS["ekfac"].damping]), torch.cat(list(built.blocks()))
    psi = machine.query_rows(drawer.objectives(machine, range(6))).double()
    asked = torch.tensor([[row not in each for each in rows] for row in range(14)]).double()
    exact = ((asked / asked.sum(1, keepdim=True)) @ psi * phi.double()).sum(1)
    assert asked.sum(1).min() < 6
    assert answer.scores == pytest.approx(exact.numpy(), rel=1e-3)
    with_two = build_index(
        Denoiser.load(tiny_model), images, tmp_path / "two", method="ekfac", timesteps=2, dim=32
    )
    assert len(drawer_of(Session(with_two), query).training_rows[0]) == 2


def test_draws_stay_where_another_image_is_taken_out(named):
    without = Index.open(
        named.index.path, named.denoiser, named.index.training_set, removed=frozenset({1})
    )
    query = Contribution(PROMPT, WORD, draws=4)
    before, after = drawer_of(named, query), drawer_of(Session(without), query)
    assert [row - (row > 1) for (row,) in before.training_rows] == [
        r for (r,) in after.training_rows
    ]
    assert before.key(range(4)) == after.key(range(4))


def test_training_images_that_are_gone_are_told_with_what_to_do(named, tmp_path):
    query = Contribution(PROMPT, WORD, draws=2, seed=9)
    nowhere = Index.open(named.index.path, named.denoiser)
    with pytest.raises(DatasetError, match=r"on training images, and .*; --pictures made asks on"):
        Session(nowhere).attribute(query, method="ekfac")
    fewer = named.index.training_set.take([1, 4, 5])
    left = Index.open(named.index.path, named.denoiser, fewer)
    with pytest.raises(DatasetError, match=r"has no image .* others with --pictures made"):
        Session(left).attribute(query, method="ekfac")


def test_pictures_are_made_where_it_is_said_how_or_training_images_cannot_be_asked_on(named):
    made = "pictures that the model makes of it"
    for query in (
        Contribution(PROMPT, WORD, pictures="made"),
        Contribution(PROMPT, WORD, context="bare"),
        Contribution(PROMPT, WORD, guidance=2.0),
        Contribution("a blue star", "blue"),  # which one caption names
        Contribution(PROMPT, WORD, draws=1),
    ):
        assert drawer_of(named, query).shown.words(2) == made
    exact = METHODS["ekfac-exact"]
    whole = setting_of(named, exact, Contribution(PROMPT, WORD))
    assert Contribution(PROMPT, WORD).drawer(whole).shown.words(2) == made
    with pytest.raises(MethodError, match="ekfac-exact scores all draws at once, so that no image"):
        Contribution(PROMPT, WORD, pictures="training").drawer(whole)
    with pytest.raises(QueryError, match="--draws 1 on --pictures training scores no image of it"):
        drawer_of(named, Contribution(PROMPT, WORD, pictures="training", draws=1))
    with pytest.raises(QueryError, match="--context does not go with --pictures: leave it out"):
        Contribution(PROMPT, WORD, pictures="training", context="bare")
    with pytest.raises(QueryError, match="--guidance does not go with --pictures: leave it out"):
        Contribution(PROMPT, WORD, pictures="training", guidance=2.0)
    with pytest.raises(QueryError, match="fewer than 3 training images name 'blue', too few"):
        drawer_of(named, Contribution("a blue star", "blue", pictures="training"))


def test_an_anchor_stands_in_the_place_of_the_concept(session, pictures):
    query = Contribution(PROMPT, WORD, anchor="shape", pictures=pictures, draws=3)
    shown = drawer_of(session, query).shown
    assert set(shown.pairs(range(6))) == {
        (PROMPT, "a red shape"), ("a golden star on a wall", "a golden shape on a wall"),
    }  # fmt: skip
    assert "by what its words gain over 'shape' on" in session.attribute(query).asked
    made = drawer_of(session, Contribution(PROMPT, WORD, anchor="shape", context="bare")).shown
    assert made.pairs([0]) == [(WORD, "shape")]


def test_pictures_of_a_folder_and_rows_that_are_kept(session, folder):
    query = Loss(PROMPT, WORD, pictures=folder, draws=2)
    first, second = session.attribute(query), session.attribute(query)
    assert not first.provenance["reused_query_gradient"]
    assert second.provenance["reused_query_gradient"]
    assert (first.scores == second.scores).all()
    assert str(folder) in first.asked
    other = Contribution(PROMPT, WORD, pictures=folder, draws=2)
    assert not session.attribute(other).provenance["reused_query_gradient"]


def test_what_is_refused(session, pictures, tiny_model):
    with pytest.raises(QueryError, match="--concept 'fish' is not in the prompt"):
        Contribution(PROMPT, "fish")
    with pytest.raises(QueryError, match="--anchor 'a star' names 'star' itself"):
        Contribution(PROMPT, WORD, anchor="a star")
    with pytest.raises(QueryError, match="--anchor does not go with --ask loss"):
        Loss(PROMPT, WORD, anchor="shape")
    with pytest.raises(QueryError, match="--draws 0 must be at least 1"):
        Loss(PROMPT, WORD, draws=0)
    with pytest.raises(MethodError, match="cannot be asked for the loss on pictures of a concept"):
        session.attribute(Loss(PROMPT, WORD, pictures=pictures), method="unlearning")
