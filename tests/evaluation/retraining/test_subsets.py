"""Halves are halves, random, independent, and stay when more are asked for."""

import numpy as np
import pytest

from headwater.evaluation.retraining.subsets import halves


@pytest.mark.parametrize("n", [2, 7, 100, 1001])
def test_every_row_is_a_half(n):
    chosen = halves(n, 5)
    assert chosen.shape == (5, n) and chosen.dtype == bool
    assert (chosen.sum(1) == n // 2).all()


def test_asking_for_more_keeps_the_first_ones():
    many = halves(50, 64, seed=3)
    np.testing.assert_array_equal(halves(50, 8, seed=3), many[:8])
    assert len({row.tobytes() for row in many}) == 64


def test_seeds_differ_and_repeat():
    np.testing.assert_array_equal(halves(40, 4, seed=1), halves(40, 4, seed=1))
    first, second = halves(40, 30, seed=1), halves(40, 30, seed=2)
    assert not {row.tobytes() for row in first} & {row.tobytes() for row in second}


def test_images_are_in_or_out_at_random_and_independently():
    n, count = 40, 4000
    chosen = halves(n, count).astype(float)
    error = 0.5 / count**0.5
    assert np.abs(chosen.mean(0) - 0.5).max() < 4 * error
    # Drawn without replacement, two images agree a little less often than not: -1 / (n - 1).
    between = np.corrcoef(chosen.T)[np.triu_indices(n, 1)]
    assert between.mean() == pytest.approx(-1 / (n - 1), abs=1e-3)
    assert np.abs(between + 1 / (n - 1)).max() < 5 / count**0.5
    # Rows share half of their images with the next, as independent ones do.
    shared = (chosen[1:] * chosen[:-1]).sum(1)
    assert shared.mean() == pytest.approx(n / 4, abs=4 * shared.std() / count**0.5)


def test_the_halves_of_one_seed_never_change():
    # A run that goes on must retrain on what it began with, whatever the NumPy.
    rows = ["".join(map(str, row.astype(int))) for row in halves(12, 3, seed=7)]
    assert rows == ["011110101000", "011100100101", "100010111001"]


@pytest.mark.parametrize(("n", "count", "seed"), [(1, 3, 0), (10, 0, 0), (10, 3, -1)])
def test_nonsense_is_refused(n, count, seed):
    with pytest.raises(ValueError, match=f"n={n}, count={count}, seed={seed}"):
        halves(n, count, seed)
