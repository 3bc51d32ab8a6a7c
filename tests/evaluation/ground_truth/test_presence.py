"""What the model sees as a truth: which images count, and what is left out."""

import warnings

import numpy as np
import pytest
import torch

from headwater.attribution.scorers.content import presence
from headwater.attribution.scorers.content.presence import Losses
from headwater.data.training_set import Sample
from headwater.errors import HeadwaterWarning, QueryError
from headwater.evaluation.ground_truth import presence as module
from headwater.evaluation.ground_truth.presence import is_of_presence, presence_truths

CAPTIONS = ("a red star", "a red moon", "a blue star", "a star", "a blue moon", "a grey star")
VALUES = ("red", "blue", "grey")
NUMBERS = torch.tensor([
    [1.0, 5.0, 9.0],  # red, by 4
    [1.0, 3.0, 9.0],  # red, by 2
    [5.0, 1.0, 9.0],  # blue, by 4
    [1.0, 1.1, 9.0],  # unsure
    [1.0, 5.0, 9.0],  # said to be blue, and red by 4
    [5.0, 1.0, 9.0],  # said to be grey, which is never seen
])  # fmt: skip


class AskedSession:
    """A session of these captions, whose model sees `NUMBERS`."""

    def __init__(self, kinds=(VALUES,)):
        self.kinds = list(kinds)
        self.index = self
        self.samples = [Sample(str(row), text, "") for row, text in enumerate(CAPTIONS)]


@pytest.fixture(autouse=True)
def seen(monkeypatch):
    monkeypatch.setattr(presence, "FEWEST", 1)
    named = torch.tensor([[value in text for value in VALUES] for text in CAPTIONS])
    losses = Losses(VALUES, NUMBERS[None], named)
    monkeypatch.setattr(module, "prepare", lambda *_: None)
    monkeypatch.setattr(module, "losses_of", lambda *_: losses)


def test_an_image_shows_what_the_model_sees_and_counts_neither_way_where_that_is_unsure():
    with pytest.warns(HeadwaterWarning, match="does not tell grey from the rest: left out"):
        red, blue = presence_truths(AskedSession())
    assert (red.concept, blue.concept) == ("red", "blue")
    assert red.shows.tolist() == [True, True, False, False, True, False]
    assert red.ambiguous.tolist() == blue.ambiguous.tolist() == [False] * 3 + [True, False, False]
    assert red.names.tolist() == [True, True, False, False, False, False]
    assert blue.shows.tolist() == [False, False, True, False, False, True]
    assert red.prompt in CAPTIONS[:2] and blue.prompt == "a blue star"
    assert not np.array_equal(red.shows, red.names)


def test_a_kind_may_be_given():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadwaterWarning)
        truths = presence_truths(AskedSession(kinds=[]), "presence:red, blue, grey")
    assert [truth.concept for truth in truths] == ["red", "blue"]


@pytest.mark.parametrize("source", ["presence", "presence:red"])
def test_no_kinds_are_refused(source):
    with pytest.raises(QueryError, match="names no words to tell from each other"):
        presence_truths(AskedSession(kinds=[]), source)


def test_a_model_that_sees_nothing_is_no_judge(monkeypatch):
    named = torch.tensor([[value in text for value in VALUES] for text in CAPTIONS])
    blind = Losses(VALUES, named.float()[None], named)  # worst where it is named
    monkeypatch.setattr(module, "losses_of", lambda *_: blind)
    with (
        pytest.warns(HeadwaterWarning, match="left out"),
        pytest.raises(QueryError, match="it can be no judge"),
    ):
        presence_truths(AskedSession())


def test_which_truths_are_of_presence():
    assert is_of_presence("presence") and is_of_presence("presence:red,blue")
    assert not is_of_presence("scenes") and not is_of_presence("presence.json")
