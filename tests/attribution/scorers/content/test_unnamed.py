"""Where a concept is that captions do not name: as presence tells it, for fewer losses."""

from shutil import rmtree

import pytest
import torch
from support.tiny import tiny_folder

from headwater import Denoiser, Session, build_index, from_images, load_dataset
from headwater.attribution.scorers.content import unnamed
from headwater.attribution.scorers.content.presence import Losses, losses_of
from headwater.attribution.scorers.content.sequential import Course
from headwater.attribution.scorers.content.unnamed import (
    rivals_of,
    sample_of,
    shown,
    told_margins,
)
from headwater.attribution.scorers.content.versions import Kind
from headwater.cli.tables import methods_table
from headwater.methods.table import METHODS

COLOURS = ("blue", "orange", "pink", "red")
SILENT = ["a star", "a moon", "a heart", "a sun", "a tree", "a ring"]
CAPTIONS = [f"a {colour} star" for colour in COLOURS for _ in range(4)] + SILENT * 2
KIND = Kind(COLOURS, "given")


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("unnamed")
    pictures = load_dataset(tiny_folder(folder / "images", len(CAPTIONS)))
    data = from_images([pictures.image(row) for row in range(len(CAPTIONS))], CAPTIONS)
    denoiser = Denoiser.load(tiny_model)
    return Session(build_index(denoiser, data, folder / "index", method="pixel-dot"))


@pytest.mark.parametrize("word", COLOURS)
def test_it_is_what_presence_tells(session, word):
    """Of images that name nothing of the kind, where it is above 0."""
    whole = losses_of(session, KIND, word)
    seen = (whole.margins(word).mean(0) > 0) & ~whole.named.any(1)
    found = shown(session, KIND, word)
    assert torch.equal(found.unnamed, seen)
    assert torch.equal(found.named, whole.named[:, COLOURS.index(word)])
    assert torch.equal(found.sample.told_apart(), whole.told_apart())
    silent, timesteps = len(SILENT) * 2, len(whole.losses)
    assert silent * timesteps * 2 <= found.losses - 16 * 4 * timesteps <= silent * timesteps * 4


def test_a_question_costs_at_most_what_the_table_says(session):
    """Of images whose captions name no value, and of the sample, under each value."""
    method, silent, sample = METHODS["ekfac-presence"], len(SILENT) * 2, 16
    cost = method.cost("contribution")
    assert str(cost) == "32x40+3uv" and method.slow
    losses = shown(session, KIND, "red").losses
    assert 0 < losses <= cost.unnamed * (silent + sample) * len(COLOURS)
    said = " ".join(methods_table([method.facts()]).split())
    assert f"{unnamed.MOST:,} at most are looked at" in said


@pytest.mark.parametrize("word", COLOURS)
def test_few_that_name_a_value_tell_whether_it_is_a_rival(session, word, monkeypatch):
    """The rest is as before, by those that they tell apart, which not all do."""
    whole = losses_of(session, KIND, word)
    monkeypatch.setattr(unnamed, "SAMPLE", 3)
    few = sample_of(whole.named)
    apart = Losses(COLOURS, whole.losses[:, few], whole.named[few]).told_apart()
    assert len(few) == 3 * len(COLOURS) and not apart.all()
    own = COLOURS.index(word)
    others = [v for v in range(len(COLOURS)) if v != own]
    rivals = [v for v in others if apart[v]] or others
    margins = (whole.losses[:, :, rivals] - whole.losses[:, :, [own]]).mean(0).min(1).values
    found = shown(session, KIND, word)
    assert torch.equal(found.unnamed, (margins > 0) & ~whole.named.any(1))
    assert torch.equal(found.sample.told_apart(), apart)


@pytest.mark.parametrize("word", COLOURS)
def test_a_course_spares_losses(session, word, monkeypatch):
    """With bounds of 0 the first timestep of its order decides."""
    whole, all_taken = losses_of(session, KIND, word), shown(session, KIND, word)
    rivals = [v for v in range(len(COLOURS)) if v != COLOURS.index(word)]
    apart = [v for v in rivals if whole.told_apart()[v]] or rivals
    at = whole.losses[1]
    seen = (at[:, apart] > at[:, [COLOURS.index(word)]]).all(1) & ~whole.named.any(1)
    rmtree(session.queries)
    monkeypatch.setattr(unnamed, "course_of", lambda _: Course([1, 0, 2], [0.0, 0.0, 0.0]))
    found = shown(session, KIND, word)
    assert torch.equal(found.unnamed, seen) and found.losses < all_taken.losses


def test_margins_of_what_captions_name(session):
    whole = losses_of(session, KIND, "red")
    apart = [v for v in range(4) if whole.told_apart()[v]]
    expected = [
        [float(t[row, w] - t[row, v]) for v in apart for row in range(4 * v, 4 * v + 4)
         for w in apart if w != v]
        for t in whole.losses
    ]  # fmt: skip
    torch.testing.assert_close(told_margins(whole).tolist(), expected)


def test_some_are_seen_and_some_are_not(session):
    """Else the test before would say little."""
    counts = [int(shown(session, KIND, word).unnamed.sum()) for word in COLOURS]
    assert 0 < sum(counts) < len(SILENT) * 2 * len(COLOURS)


def test_a_word_without_others_is_asked_of_captions_that_lack_it(session):
    alone = Kind(("red",), "none wanted")
    whole = losses_of(session, alone, "red")
    found = shown(session, alone, "red")
    seen = (whole.margins("red").mean(0) > 0) & ~whole.named.any(1)
    assert torch.equal(found.unnamed, seen) and int(found.named.sum()) == 4
    assert found.losses == 3 * 2 * (len(CAPTIONS) - 4)  # with the word, and as they are


def test_where_all_captions_name_a_value_the_model_is_not_asked(session):
    kind = Kind(("heart", "moon", "ring", "star", "sun", "tree"), "given")
    found = shown(session, kind, "moon")
    assert found.losses == 0 and not found.unnamed.any() and int(found.named.sum()) == 2
    assert found.sample.told_apart().all()


def test_of_many_images_the_likely_are_looked_at(session, monkeypatch):
    """The others are counted, and what is found among those looked at is as before."""
    whole = shown(session, KIND, "red").unnamed
    silent = torch.arange(len(CAPTIONS) - len(SILENT) * 2, len(CAPTIONS))
    likely = torch.arange(len(CAPTIONS), dtype=torch.float64).flip(0)
    for most in (0, 5, len(silent)):
        monkeypatch.setattr(unnamed, "MOST", most)
        found = shown(session, KIND, "red", likely=likely)
        expected = torch.zeros(len(CAPTIONS), dtype=torch.bool)
        expected[silent[:most]] = whole[silent[:most]]
        assert torch.equal(found.unnamed, expected)
        assert found.passed_over == len(silent) - most


def test_what_the_model_does_not_tell_apart_is_no_rival():
    named = torch.eye(4).bool()
    assert rivals_of(3, torch.tensor([True, False, True, True]), named) == [0, 2]
    nothing = torch.zeros(4, dtype=torch.bool)
    assert rivals_of(3, nothing, named) == [0, 1, 2], "unless there are no others"


def test_the_sample_names_each_value_alone():
    named = torch.zeros(100, 2, dtype=torch.bool)
    named[:60, 0] = True
    named[50:, 1] = True  # fifty to fifty-nine name both
    rows = sample_of(named)
    first = [row for row in rows if row < 50]
    assert len(first) == len(rows) - len(first) == unnamed.SAMPLE
    assert not any(50 <= row < 60 for row in rows)
    assert first[-1] - first[0] > 40, "from all of them, not the first ones"
    assert sample_of(named[:3]) == [0, 1, 2] and sample_of(named[:0]) == []


def test_an_image_names_what_any_of_its_captions_says(tmp_path, tiny_model):
    """Not the one alone that its losses are taken under."""
    pictures = load_dataset(tiny_folder(tmp_path / "images", 3))
    captions = [["a red star", "a blue thing"], ["a blue thing", "a red star"], ["a star"]]
    data = from_images([pictures.image(row) for row in range(3)], captions)
    denoiser = Denoiser.load(tiny_model)
    both = Session(build_index(denoiser, data, tmp_path / "index", method="pixel-dot"))
    kind = Kind(("blue", "red"), "given")
    for word in kind.values:
        assert shown(both, kind, word).named.tolist() == [True, True, False]
