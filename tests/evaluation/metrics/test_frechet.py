"""The Frechet distance against scipy's matrix root and closed forms."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from headwater.evaluation.metrics.frechet import frechet_distance


def by_sqrtm(first: np.ndarray, second: np.ndarray) -> float:
    (mu, c), (nu, d) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (first, second))
    return float(((mu - nu) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real))


def features(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 80, 1), (40, 40, 8), (300, 100, 32)])
def test_it_is_the_formula(n, m, d):
    first, second = features(n, d, 0), features(m, d, 1)
    if d == 1:  # closed form: normal distributions on a line
        means = first.mean() - second.mean()
        exact = means**2 + (first.std(ddof=1) - second.std(ddof=1)) ** 2
    else:
        exact = by_sqrtm(first, second)
    assert frechet_distance(first, second) == pytest.approx(exact, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("n", [10, 200])  # fewer rows than features, and more
def test_closed_forms_of_shift_and_scale(n):
    first, shift = features(n, 32, 2), np.arange(32.0)
    total = np.cov(first, rowvar=False).trace()
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9 * total)
    assert frechet_distance(first, first + shift) == pytest.approx((shift**2).sum())
    centred = first - first.mean(0)  # scaled by 3: (3 - 1)^2 tr C
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * total)


def test_rotation_changes_nothing_and_order_neither():
    first, second = features(30, 5, 3), features(40, 5, 4)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(5, 5)))[0]
    exact = frechet_distance(first, second)
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(exact)
    assert frechet_distance(first[::-1].copy(), second) == pytest.approx(exact)


def test_half_precision_is_summed_in_double():
    first, second = features(500, 4, 6) + 100, features(500, 4, 7) + 100
    half = frechet_distance(first.astype(np.float32), second.astype(np.float32))
    assert half == pytest.approx(frechet_distance(first, second), rel=1e-4)


@pytest.mark.parametrize("bad", [np.ones((1, 3)), np.full((5, 3), np.nan)])
def test_what_has_no_distance_is_refused(bad):
    with pytest.raises(ValueError, match="two rows or more, all finite"):
        frechet_distance(np.eye(3), bad)
