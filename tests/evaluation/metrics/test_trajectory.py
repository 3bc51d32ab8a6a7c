"""What compares more than the steps of one journey, against scipy and counting."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from headwater.evaluation.metrics.trajectory import seed_consistency, top_with_bottom


def test_the_top_of_one_step_among_the_bottom_of_another_is_counted():
    scores = np.random.default_rng(0).normal(size=(4, 30))
    scores[1] = np.round(scores[1])  # ties: the data set's order
    k = 7
    top = [set(sorted(range(30), key=lambda i: -row[i])[:k]) for row in scores]
    bottom = [set(sorted(range(30), key=lambda i: row[i])[:k]) for row in scores]
    exact = [[len(a & b) / k for b in bottom] for a in top]
    assert np.ptp(exact) > 0
    np.testing.assert_allclose(top_with_bottom(scores, k), exact)


def test_a_step_that_turns_another_around_shares_all():
    scores = np.stack([np.arange(20.0), -np.arange(20.0)])
    np.testing.assert_array_equal(top_with_bottom(scores, 5), [[0, 1], [1, 0]])


def test_consistency_is_the_mean_over_pairs_of_seeds():
    scores = np.random.default_rng(1).normal(size=(4, 3, 25))
    scores[:, 1] += 3 * scores[0, 1]  # one step on which the seeds agree
    exact = [
        np.mean(
            [spearmanr(scores[a, t], scores[b, t]).statistic for a in range(4) for b in range(a)]
        )
        for t in range(3)
    ]
    found = seed_consistency(scores)
    np.testing.assert_allclose(found, exact, atol=1e-12)
    assert found.argmax() == 1 and found[1] > 0.8


def test_seeds_without_an_order_agree_in_nothing():
    scores = np.stack([np.zeros((2, 9)), np.arange(18.0).reshape(2, 9)])
    np.testing.assert_array_equal(seed_consistency(scores), [0, 0])
    with pytest.raises(ValueError, match="at least 2 seeds; got 1"):
        seed_consistency(scores[:1])
