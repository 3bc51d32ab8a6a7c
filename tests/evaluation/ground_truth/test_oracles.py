"""Baselines of what is known of images."""

from dataclasses import replace

import numpy as np

from headwater.data.training_set import Sample
from headwater.evaluation.ground_truth.concepts import read_truths
from headwater.evaluation.ground_truth.oracles import break_ties, membership, visibility
from headwater.scenes.dataset import pictures


def scene_truths(count):
    samples = [Sample(f"{p.id}.png", p.caption, "") for p in pictures()[:count]]
    return read_truths("scenes", samples)


def test_membership_ranks_by_captions_alone():
    truths = scene_truths(40)
    for truth, row in zip(truths, break_ties(membership(truths)), strict=True):
        assert row[truth.names].min() > row[~truth.names].max()
        assert len(set(row)) == len(row)
    named = membership(truths)
    assert set(named.ravel()) <= {0, 1}
    assert (break_ties(named, seed=1) != break_ties(named)).all()
    assert (break_ties(named[1:]) == break_ties(named)[1:]).all()


def test_visibility_ranks_what_is_ambiguous_between():
    (truth, *_) = scene_truths(40)
    ambiguous = np.arange(40) == np.flatnonzero(~truth.shows)[0]
    row = visibility([replace(truth, ambiguous=ambiguous)])[0]
    assert (row[truth.shows] == 1).all() and row[ambiguous].tolist() == [0.5]
    assert (row[~truth.shows & ~ambiguous] == 0).all()
