"""Metrics against closed forms and counting by hand."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from headwater.evaluation.metrics.intervals import mean_interval
from headwater.evaluation.metrics.retrieval import (
    average_precision,
    capped_recall_at,
    false_caption_rate,
    isolation,
    precision_at,
    recall_at,
    shown_unnamed_precision,
)


def test_by_hand():
    scores = np.array([0.1, 0.9, 0.5, 0.7])
    truth = np.array([True, False, True, True])  # ranked: F T T T
    assert precision_at(scores, truth, 2) == 0.5
    assert precision_at(scores, truth, 4) == 0.75
    assert average_precision(scores, truth) == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)


@pytest.mark.parametrize("hits", [1, 7, 50])
def test_best_and_worst_rankings(hits):
    n = 50
    truth = np.arange(n) < hits
    best, worst = -np.arange(n, dtype=float), np.arange(n, dtype=float)
    assert average_precision(best, truth) == 1
    exact = np.mean([(i + 1) / (n - hits + i + 1) for i in range(hits)])
    assert average_precision(worst, truth) == pytest.approx(exact)


def test_random_scores_have_the_precision_of_chance():
    rng = np.random.default_rng(0)
    truth = rng.random(2000) < 0.3
    found = [precision_at(rng.random(2000), truth, 10) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(truth.mean(), abs=0.01)


def test_isolation_is_what_the_others_do_not_share():
    scores = -np.arange(20.0)
    asked = np.arange(20) < 10
    same, none = asked.copy(), np.zeros(20, bool)
    assert isolation(scores, asked, [same]) == 0
    assert isolation(scores, asked, [none]) == 1
    assert isolation(scores, asked, [same, none]) == 0.5


def test_ties_keep_the_order_of_the_rows():
    truth = np.array([True, False, True, False])
    assert precision_at(np.zeros(4), truth, 1) == 1
    assert precision_at(np.zeros(4), truth[::-1].copy(), 1) == 0


def test_average_precision_needs_truth():
    with pytest.raises(ValueError, match="at least one"):
        average_precision(np.ones(3), np.zeros(3, bool))


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).normal(5, 2, 400)
    mean, low, high = mean_interval(values.tolist())
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (high - mean, mean - low) == pytest.approx((half, half), rel=0.1)


@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_the_interval_of_few_is_students(n):
    values = np.random.default_rng(n).normal(5, 2, n)
    exact = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values.tolist()) == pytest.approx((values.mean(), *exact), rel=1e-3)


def test_one_value_has_no_interval():
    assert mean_interval([0.5]) == pytest.approx((0.5, np.nan, np.nan), nan_ok=True)


def test_two_recalls():
    scores = -np.arange(20.0)
    truth = np.zeros(20, bool)
    truth[[0, 3, 12]] = True  # two of three among the best ten
    assert recall_at(scores, truth, 10) == capped_recall_at(scores, truth) == pytest.approx(2 / 3)
    assert recall_at(scores, truth, 1) == pytest.approx(1 / 3)
    assert capped_recall_at(scores, truth, 1) == 1
    assert capped_recall_at(scores, truth, 2) == 0.5
    assert recall_at(scores, truth, 20) == recall_at(scores, truth, 50) == 1


@pytest.mark.parametrize("recall", [recall_at, capped_recall_at])
def test_recall_needs_truth(recall):
    with pytest.raises(ValueError, match="at least one true row"):
        recall(np.ones(3), np.zeros(3, bool), 2)


# 400 images: a quarter shows the concept; captions name it in most of them, and in some others.
SHOWS = np.arange(400) < 100
NAMES = (np.arange(400) < 80) | (np.arange(400) >= 380)


def test_the_lexical_control_tells_words_from_pictures():
    noise = np.random.default_rng(2).random(400)
    words, picture = NAMES + 0.1 * noise, SHOWS + 0.1 * noise
    assert shown_unnamed_precision(picture, SHOWS, NAMES) == 1
    assert false_caption_rate(picture, SHOWS, NAMES) == 0
    # Word matching: chance among the unnamed, and false captions at their share of all that name.
    assert precision_at(words, SHOWS, 100) == 0.8
    assert false_caption_rate(words, SHOWS, NAMES, 100) == 0.2
    assert shown_unnamed_precision(words, SHOWS, NAMES, 300) == SHOWS[~NAMES].mean() == 20 / 300


def test_the_lexical_control_by_hand():
    scores = -np.arange(6.0)
    shows = np.array([True, False, False, True, True, False])
    names = np.array([True, True, False, False, False, True])
    # Without the named ones: rows 2 (not shown), 3 and 4 (shown).
    assert [shown_unnamed_precision(scores, shows, names, k) for k in (1, 2, 4)] == [0, 0.5, 2 / 3]
    # Named and not shown: rows 1 and 5.
    assert [false_caption_rate(scores, shows, names, k) for k in (1, 2, 5)] == [0, 0.5, 0.2]


def test_the_lexical_control_needs_captions_that_differ_from_the_pictures():
    with pytest.raises(ValueError, match="no image shows the concept without its caption"):
        shown_unnamed_precision(np.ones(400), SHOWS, SHOWS | NAMES)
    with pytest.raises(ValueError, match="no caption names the concept falsely"):
        false_caption_rate(np.ones(400), SHOWS, SHOWS & NAMES)
