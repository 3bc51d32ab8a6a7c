"""Metrics against closed forms and counting by hand."""

import numpy as np
import pytest

from headwater.evaluation.retrieval import (
    average_precision,
    isolation,
    mean_interval,
    precision_at,
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
