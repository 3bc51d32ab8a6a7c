"""Influence with presence against a plain sum of what either says on its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import tiny_folder

from headwater import Concept, Contribution, Denoiser, Index, Session, build_index, from_images
from headwater import load_dataset as load
from headwater.attribution.scores import Scored
from headwater.errors import MethodError
from headwater.methods.table import METHODS

CAPTIONS = ["a red star", "a blue star", "an orange star", "a star", "a moon", "a heart"]
OWN = METHODS["ekfac-presence"].damping
ASKED = Contribution("a red star", "red", context="prompt", draws=3)
DAMPING = METHODS["ekfac-presence"].damping


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("with-presence")
    pictures = load(tiny_folder(folder / "images", len(CAPTIONS)))
    data = from_images([pictures.image(row) for row in range(len(CAPTIONS))], CAPTIONS)
    built = build_index(
        Denoiser.load(tiny_model), data, folder / "index", method="ekfac", timesteps=2, dim=64
    )
    return Session(built)


def scaled(values):
    """On a scale of its own; 0 stays 0."""
    values = np.asarray(values, dtype=float)
    return values / values.std()


def test_it_is_the_sum_of_both(session):
    influence = session.attribute(ASKED, method="ekfac", damping=DAMPING)
    margins = session.attribute(Concept("a red star", "red"), method="presence").scores
    says = np.array(["red" in caption for caption in CAPTIONS])
    says_any = np.array([any(c in t for c in ("red", "blue", "orange")) for t in CAPTIONS])
    weights = says - 2.0 * ((margins > 0) & ~says_any)
    expected = scaled(influence.scores) + scaled(weights)
    both = session.attribute(ASKED, method="ekfac-presence")
    np.testing.assert_allclose(both.scores, expected, atol=1e-5)
    assert (
        both.remarks == session.attribute(Concept("a red star", "red"), method="presence").remarks
    )
    assert both.asked.endswith("and what the model sees in each image")
    assert both.certainty is not None and both.certainty.draws == 3
    spread = influence.scores.std()
    np.testing.assert_allclose(
        both.certainty.errors, influence.certainty.errors / spread, rtol=1e-4
    )


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_of_many_images_the_strongest_opponents_are_looked_at(session, monkeypatch):
    """Three captions name no colour; that of the lowest influence is looked at, and it is said."""
    from headwater.attribution.scorers.content import unnamed, with_presence

    influence = session.attribute(ASKED, method="ekfac", damping=DAMPING).scores
    lowest = min((3, 4, 5), key=lambda row: influence[row])
    looked = []

    def seen(resources, rows, texts, course, spec):  # everything, wherever it is looked for
        looked.append(list(rows))
        return torch.ones(len(rows), dtype=torch.bool), len(rows)

    monkeypatch.setattr(unnamed, "best_caption", seen)
    monkeypatch.setattr(unnamed, "MOST", 1)
    monkeypatch.setattr(with_presence, "MOST", 1)
    both = session.attribute(ASKED, method="ekfac-presence")
    assert looked == [[lowest]]
    expected = scaled(influence) + scaled(
        [-2.0 if row == lowest else float(row == 0) for row in range(len(CAPTIONS))]
    )
    np.testing.assert_allclose(both.scores, expected, atol=1e-5)
    assert (
        "Of the images whose captions name nothing of the kind the 1 with the lowest influence "
        "were looked at for what they show, 2 were not" in both.remarks
    )


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_several_are_asked_at_once_by_one_pass_over_the_rows(session, monkeypatch):
    star = Contribution("a red star", "star", context="prompt", draws=3)
    passes, scan = [], Index.scan
    monkeypatch.setattr(Index, "scan", lambda index, *on: passes.append(1) or scan(index, *on))
    alone = [session.attribute(query, method="ekfac-presence") for query in (ASKED, star)]
    assert len(passes) == 2
    together = session.attribute([ASKED, star], method="ekfac-presence")
    assert len(passes) == 3
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


def test_what_it_cannot_be_asked_is_refused(session):
    with pytest.raises(MethodError, match="ekfac-presence cannot be asked for a concept"):
        session.attribute(Concept("a red star", "red"), method="ekfac-presence")


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_a_concept_that_nothing_shows_is_answered_by_the_influence_alone(session, monkeypatch):
    from headwater.attribution.scorers.content import with_presence

    monkeypatch.setattr(with_presence, "UNNAMED", 0.0)
    unknown = Contribution("a green star", "green", context="prompt", draws=2)
    both = session.attribute(unknown, method="ekfac-presence")
    influence = session.attribute(unknown, method="ekfac", damping=OWN)
    np.testing.assert_allclose(both.scores, scaled(influence.scores), atol=1e-5)


def test_of_a_single_image_the_influence_stays_as_it_is():
    from headwater.attribution.scorers.content.with_presence import _together, scaled

    draws = torch.tensor([[2.0], [4.0]])
    assert torch.equal(_together(Scored(draws), scaled(torch.ones(1).double())).draws, draws)


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_a_word_of_every_caption_is_answered_by_the_influence_alone(session, monkeypatch):
    """As the trigger word of a LoRA: nothing is divided by a spread that is none."""
    from headwater.attribution.scorers.content import with_presence

    found = with_presence.shown

    def everywhere(*asked):
        there = found(*asked)
        return replace(there, named=there.named | True, unnamed=there.unnamed & False)

    monkeypatch.setattr(with_presence, "shown", everywhere)
    both = session.attribute(ASKED, method="ekfac-presence")
    influence = session.attribute(ASKED, method="ekfac", damping=OWN)
    np.testing.assert_allclose(both.scores, scaled(influence.scores), atol=1e-5)
    said = (
        "Every caption names 'red', which tells no image from another: scores are of the influence"
    )
    assert f"{said} alone" in both.remarks


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_what_is_looked_at_is_the_same_at_any_damping(session, monkeypatch):
    """One image of three, so that another order would show."""
    from headwater.attribution.scorers.content import unnamed

    monkeypatch.setattr(unnamed, "MOST", 1)
    own = session.attribute(ASKED, method="ekfac-presence").scores
    influence = session.attribute(ASKED, method="ekfac", damping=OWN).scores
    seen = own - scaled(influence)
    for damping in (10.0, 0.1):
        both = session.attribute(ASKED, method="ekfac-presence", damping=damping).scores
        there = session.attribute(ASKED, method="ekfac", damping=damping).scores
        np.testing.assert_allclose(both - scaled(there), seen, atol=1e-4)


def test_a_question_that_was_asked_needs_no_losses_again(session, monkeypatch):
    from headwater.attribution.scorers.content import unnamed

    first = session.attribute(ASKED, method="ekfac-presence").scores
    monkeypatch.setattr(unnamed, "look", None)
    np.testing.assert_array_equal(session.attribute(ASKED, method="ekfac-presence").scores, first)


def test_alternatives_are_of_what_is_seen_alone(session):
    given = replace(ASKED, alternatives=("pink",))
    with pytest.raises(MethodError, match=r"ekfac tells a concept from no .* --method ekfac-pres"):
        session.attribute(given, method="ekfac")
    asked = session.attribute(given, method="ekfac-presence").provenance["query"]
    assert (asked["alternatives"], asked["alternatives from"]) == (["pink"], "given")


def test_candidates_by_what_the_model_sees(session):
    answer = session.attribute(ASKED, method="ekfac", candidates="presence:2")
    seen = session.attribute(Concept("a red star", "red"), method="presence")
    assert sorted(answer.competing) == sorted(np.argsort(-seen.scores)[:2])


def test_a_kept_answer_needs_neither_images_nor_model(tmp_path, tiny_model, monkeypatch):
    """Some captions name no colour, so that the model was asked what it sees there."""
    pictures, folder = load(tiny_folder(tmp_path / "tiny", len(CAPTIONS))), tmp_path / "images"
    folder.mkdir()
    for row, caption in enumerate(CAPTIONS):
        pictures.image(row).save(folder / f"{row}.png")
        (folder / f"{row}.txt").write_text(caption)
    options = dict(method="ekfac-presence", timesteps=2, dim=64)
    build_index(Denoiser.load(tiny_model), load(folder), tmp_path / "index", **options)
    first = Session.open(tmp_path / "index").attribute(ASKED).scores
    folder.rename(tmp_path / "moved")
    monkeypatch.setattr(Denoiser, "load", None)
    np.testing.assert_array_equal(Session.open(tmp_path / "index").attribute(ASKED).scores, first)
