"""What a bootstrap over draws says, against closed forms, and when `draws=None` stops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support.brute_force import made, scored

from headwater import Concept, Denoiser, build_index, load_dataset
from headwater.attribution.answer.bootstrap import certainty
from headwater.attribution.scorers import gradient
from headwater.attribution.scorers.unlearned import unlearning
from headwater.attribution.scores import Scored
from headwater.queries.contexts import choose_contexts
from headwater.queries.image import Image

PROMPT = "a red star"


@pytest.mark.parametrize("rule", ["dot", "trak", "relative", "renormalised", "das-concept-trak"])
def test_the_error_of_a_mean_is_std_over_sqrt_d(rule):
    phi, _, errors = made(60, 20)
    psi = torch.randn(40, 20)
    found = scored(rule, phi, psi, errors)
    sure = certainty(found)
    exact = found.draws.double().std(0, correction=0).numpy() / 40**0.5
    ratio = sure.errors / exact
    assert sure.draws == 40 and len(ratio) == 60
    # 200 resamples know a standard deviation to one part in twenty
    assert abs(ratio.mean() - 1) < 0.05 and np.abs(ratio - 1).max() < 0.25


def test_the_error_of_squared_scores_is_that_of_resampled_answers():
    """das-l1 squares the mean: by the delta method 2 |mean| std / sqrt(d)."""
    draws = 5 + torch.randn(50, 30)
    sure = certainty(Scored(draws, squared=True))
    wanted = (2 * draws.mean(0).abs() * draws.std(0, correction=0) / 50**0.5).numpy()
    assert np.abs(sure.errors / wanted - 1).max() < 0.25


def test_scores_far_apart_stay():
    draws = torch.arange(30.0).flip(0) + 1e-3 * torch.randn(8, 30)
    sure = certainty(Scored(draws), k=10)
    assert sure.stays == {row: 1.0 for row in range(10)}
    assert sure.stability == 1 and sure.k == 10 and sure.draws == 8


def test_scores_that_draws_cannot_tell_apart_do_not_stay():
    sure = certainty(Scored(torch.randn(8, 400)), k=10)
    assert 0.1 < sure.stability < 0.7
    assert sure.stability == pytest.approx(sum(sure.stays.values()) / 10)


def test_stays_counts_resamples():
    """Two rows change places with a chance that follows from four draws.

    Row 0 leads but for the draw that speaks against it by more than the others speak for it:
    resamples keep it unless that draw comes at least twice of four times.
    """
    draws = torch.tensor([[1.0, 0], [1, 0], [1, 0], [-2, 0]])
    sure = certainty(Scored(draws), k=1)
    # mean > 0 if the last draw comes 0 or 1 times (4 - 3 m > 0); at 4/3 there is no tie
    exact = 0.75**4 + 4 * 0.25 * 0.75**3
    assert list(sure.stays) == [0] and abs(sure.stays[0] - exact) < 4 * (exact / 4 / 200) ** 0.5
    resampled = certainty(Scored(draws), k=1, seed=1)
    assert certainty(Scored(draws), k=1).stays == sure.stays != resampled.stays


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("count", [2, 7, 8])
def test_halves_are_spearman_of_every_other_draw(count, squared):
    draws = torch.randn(40) + torch.randn(count, 40)
    even, odd = draws[::2].mean(0), draws[1::2].mean(0)
    exact = spearmanr(even.square(), odd.square()) if squared else spearmanr(even, odd)
    ours = certainty(Scored(draws, squared)).halves
    assert ours == pytest.approx(exact.statistic, abs=1e-6) and abs(ours) < 0.99


def test_one_draw_says_nothing():
    assert certainty(Scored(torch.randn(1, 20))) is None


def test_fewer_rows_than_the_top():
    sure = certainty(Scored(torch.randn(4, 3)), k=10)
    assert sure.k == 3 and sure.stays.keys() == {0, 1, 2} and sure.stability == 1


def test_only_candidates_compete():
    """The top is that of the answer: no other row is in it, whatever it scores."""
    draws = torch.arange(30.0) + 5 * torch.randn(8, 30)
    among = [3, 7, 11, 20]
    sure = certainty(Scored(draws), k=2, among=among)
    best = sorted(among, key=lambda row: -draws.mean(0)[row])[:2]
    assert list(sure.stays) == best and sure.draws == 8
    assert certainty(Scored(draws), among=among).k == 4
    np.testing.assert_array_equal(sure.errors, certainty(Scored(draws)).errors)


# --- draws=None ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model, tiny_images):
    out = tmp_path_factory.mktemp("certainty") / "index"
    data = load_dataset(tiny_images)
    options = dict(method="gradient-dot", timesteps=1, parameters="attn2-kv", dim=64)
    return build_index(Denoiser.load(tiny_model), data, out, **options)


@pytest.fixture(scope="module")
def concepts(tmp_path_factory, tiny_model, tiny_images):
    out = tmp_path_factory.mktemp("certainty") / "concepts"
    data = load_dataset(tiny_images)
    options = dict(method="concept-trak-unguided", timesteps=1, parameters="attn2-kv", dim=64)
    return build_index(Denoiser.load(tiny_model), data, out, **options)


@pytest.mark.parametrize("stable, spent", [(0.0, 16), (2.0, 64)])
def test_draws_auto_stops_and_says_what_it_spent(index, tiny_images, monkeypatch, stable, spent):
    """At the first stable top ten, or at the most draws; the answer is that of so many draws."""
    monkeypatch.setattr(gradient, "STABLE", stable)
    monkeypatch.setattr(gradient, "MOST_DRAWS", 64)
    said = []
    query = Image(PROMPT, tiny_images / "train-00003.png", draws=None)
    found = index.attribute(query, fresh=True, note=said.append)
    assert found.provenance["query"]["draws"] == found.certainty.draws == spent
    stability = f"{found.certainty.stability:.0%}"
    assert said == [
        f"the picture: {spent} draws, on average an image of the top 10 stays there in "
        f"{stability} of resamples"
    ]
    as_many = index.attribute(replace(query, draws=spent))
    np.testing.assert_allclose(found.scores, as_many.scores, rtol=1e-4, atol=1e-9)
    ranked = found.top(10)
    assert all(r.error == found.certainty.errors[r.row] for r in ranked)
    assert all(r.stays == found.certainty.stays[r.row] for r in ranked)


def test_a_number_of_draws_is_made_without_a_word(index, tiny_images):
    said = []
    query = Image(PROMPT, tiny_images / "train-00003.png", draws=3)
    found = index.attribute(query, fresh=True, note=said.append)
    assert found.certainty.draws == 3 and said == []
    one = index.attribute(replace(query, draws=1))
    assert one.certainty is None and one.top(1)[0].error is one.top(1)[0].stays is None


def test_candidates_alone_compete_in_an_answer(index, tiny_images):
    query = Image(PROMPT, tiny_images / "train-00003.png", draws=4)
    found = index.attribute(query, candidates="pixel:5")
    assert found.certainty.k == 5 and found.certainty.stability == 1
    assert set(found.certainty.stays) == {entry.row for entry in found.top(5)}


def test_all_scores_are_real_and_opponents_are_candidates(index, tiny_images):
    query = Image(PROMPT, tiny_images / "train-00003.png", draws=4)
    found = index.attribute(query, candidates="pixel:5")
    np.testing.assert_array_equal(found.scores, index.attribute(query).scores)
    assert {entry.row for entry in found.bottom(10)} == {entry.row for entry in found.top(5)}
    assert sorted(found.competing) == sorted(found.among) and len(found.among) == 5


# --- what the provenance says, and what is said beside it ---------------------------------------


def test_contexts_are_those_of_the_draws_made(concepts, tmp_path, monkeypatch):
    monkeypatch.setattr(gradient, "STABLE", 0.0)
    file = tmp_path / "contexts"
    file.write_text("\n".join(f"a star number {i}" for i in range(99)))
    query = Concept(PROMPT, "star", context=str(file), draws=None)
    found = concepts.attribute(query)
    assert found.asked == f"over 16 contexts of {file}"
    used = choose_contexts(replace(query, draws=16), []).pairs
    assert found.provenance["query"]["contexts"] == [list(pair) for pair in used]
    assert len(used) == found.provenance["query"]["draws"] == 16
    monkeypatch.setattr(unlearning, "PICTURE_STEPS", 1)
    unlearned = concepts.attribute(query, method="unlearning")
    assert unlearned.asked == f"by unlearning pictures of c+, over 32 contexts of {file}"
    assert len(unlearned.provenance["query"]["contexts"]) == 32


@pytest.mark.parametrize("draws, notes", [(32, 0), (1, 0), (7, 1), (None, 1)])
def test_an_inversion_has_one_draw_and_says_so(concepts, tiny_images, draws, notes):
    said = []
    query = Image(PROMPT, tiny_images / "train-00003.png", draws=draws)
    found = concepts.attribute(query, fresh=True, note=said.append)
    assert found.unsure == "an inversion draws no noise"
    assert said == ["the picture: an inversion draws no noise, so --draws has no effect"] * notes


def test_why_there_is_no_error(concepts):
    query = Concept(PROMPT, "star", context="bare", draws=1)
    assert concepts.attribute(query).unsure == "there was one draw"
    assert concepts.attribute(replace(query, draws=2)).unsure == ""
    chance = concepts.attribute(query, method="random")
    assert chance.unsure == "the scores are random numbers"
    assert chance.provenance["damping"] is None


def test_damping_is_of_rules_with_a_kernel(index, concepts, tiny_images):
    said = []
    query = Image(PROMPT, tiny_images / "train-00003.png", draws=1)
    dot = index.attribute(query, damping=[0.1, 2.0], note=said.append)
    assert said[0] == "gradient-dot has no kernel, so --damping has no effect"
    assert dot.provenance["damping"] is None and dot.sweep == {}
    assert concepts.attribute(query, damping=2.0).provenance["damping"] == 2.0


def test_the_lack_of_a_concept_is_written_down(concepts):
    query = Concept(PROMPT, "star", context="prompt", draws=2, swap=True)
    assert concepts.attribute(query).provenance["query"]["swap"] is True
    there = concepts.attribute(replace(query, swap=False))
    assert there.provenance["query"]["swap"] is False
