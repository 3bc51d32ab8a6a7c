"""Linear datamodeling scores against scipy, loops, and simulated models of known correlation."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from headwater.evaluation.metrics import lds as module
from headwater.evaluation.metrics.lds import (
    choose,
    lds,
    lds_difference,
    lds_interval,
    models_needed,
    noise_ceiling,
    predicted_outputs,
)
from headwater.evaluation.retraining.subsets import halves


def simulated(m: int, q: int, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and predictions of correlation rho in every query; queries share the models' luck."""
    rng = np.random.default_rng(seed)
    true, noise = ((rng.normal(size=(m, 1)) + rng.normal(size=(m, q))) / 2**0.5 for _ in "tn")
    return true, rho * true + (1 - rho**2) ** 0.5 * noise


def rank_correlation(rho: float) -> float:
    """Spearman's of two normal variables with correlation rho (Pearson 1907)."""
    return 6 / np.pi * np.arcsin(rho / 2)


# --- predictions --------------------------------------------------------------------------------


def test_a_prediction_is_minus_the_sum_over_the_subset():
    scores = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    subsets = halves(40, 6)
    exact = [[-sum(float(s) for s in row[subset]) for row in scores] for subset in subsets]
    np.testing.assert_allclose(predicted_outputs(scores, subsets), exact, atol=1e-9)


def test_a_proponent_lowers_the_loss():
    # Each model's loss falls by what its images teach: the score that says so must be right.
    taught = np.random.default_rng(1).normal(size=(2, 60))
    subsets = halves(60, 30)
    losses = np.array([[5 - row[subset].sum() for row in taught] for subset in subsets])
    np.testing.assert_allclose(lds(losses, predicted_outputs(taught, subsets)), 1)
    np.testing.assert_allclose(lds(losses, predicted_outputs(-taught, subsets)), -1)


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3])
def test_scores_that_are_all_equal_tell_no_halves_apart(value):
    predicted = predicted_outputs(np.full((2, 1001), value), halves(1001, 50))
    assert (np.ptp(predicted, axis=0) == 0).all()
    np.testing.assert_array_equal(lds(simulated(50, 2, 0.5, 0)[0], predicted), [0, 0])


# --- the score ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_it_is_spearmans(ties):
    true, predicted = simulated(25, 6, 0.5, 2)
    if ties:
        true, predicted = np.round(true), np.round(2 * predicted) / 2
    exact = [spearmanr(a, b).statistic for a, b in zip(true.T, predicted.T, strict=True)]
    np.testing.assert_allclose(lds(true, predicted), exact, atol=1e-12)


def test_a_query_without_an_order_counts_nothing():
    true, predicted = simulated(10, 3, 0.9, 3)
    true[:, 0], predicted[:, 1] = 0.1, 7
    found = lds(true, predicted)
    exact = spearmanr(true[:, 2], predicted[:, 2]).statistic
    assert (found[:2] == 0).all() and found[2] == pytest.approx(exact, abs=1e-12)


def test_what_cannot_be_ranked_is_refused():
    true, predicted = simulated(8, 2, 0.5, 4)
    with pytest.raises(ValueError, match=r"2 subsets or more; got \(1, 2\)"):
        lds(true[:1], predicted[:1])
    predicted[3, 1] = np.nan
    with pytest.raises(ValueError, match="finite outputs"):
        lds(true, predicted)


# --- intervals ----------------------------------------------------------------------------------


def test_resamples_are_those_of_rows_drawn_jointly(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 20)
    true, predicted = simulated(12, 3, 0.6, 5)
    true[:, 1] = np.round(true[:, 1])
    drawn = np.random.default_rng(9).multinomial(12, np.full(12, 1 / 12), size=20)
    rows = [np.repeat(np.arange(12), counts) for counts in drawn]
    means = [
        np.mean([spearmanr(true[r, q], predicted[r, q]).statistic for q in range(3)]) for r in rows
    ]
    point = lds(true, predicted).mean()
    bias = np.mean(means) - point
    exact = (point, *(np.percentile(means, [2.5, 97.5]) - 2 * bias))
    np.testing.assert_allclose(lds_interval(true, predicted, seed=9), exact, atol=1e-12)


@pytest.mark.parametrize(("m", "rho"), [(16, 0.0), (32, 0.5), (16, 0.7)])
def test_the_interval_covers_the_truth(monkeypatch, m, rho):
    monkeypatch.setattr(module, "RESAMPLES", 200)
    found = np.array([lds_interval(*simulated(m, 4, rho, i)) for i in range(200)])
    covered = (found[:, 1] <= rank_correlation(rho)) & (rank_correlation(rho) <= found[:, 2])
    assert 0.88 <= covered.mean() <= 0.99
    assert (found[:, 1] < found[:, 0]).all() and (found[:, 0] < found[:, 2]).all()


def test_the_interval_of_a_precise_score_covers_it_too(monkeypatch):
    """Of many queries that share no luck; resamples, left as they are, cover half of these."""
    monkeypatch.setattr(module, "RESAMPLES", 200)
    rho, covered = 0.7, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        true, noise = rng.normal(size=(2, 16, 20))
        _, low, high = lds_interval(true, rho * true + (1 - rho**2) ** 0.5 * noise)
        covered += low <= rank_correlation(rho) <= high
    assert covered >= 52


def test_the_queries_of_a_table_are_no_independent_draws():
    # Every query sees the same luck: a hundred of them are worth no more than one.
    true, predicted = simulated(30, 1, 0.5, 6)
    one = lds_interval(true, predicted)
    many = lds_interval(np.repeat(true, 100, 1), np.repeat(predicted, 100, 1))
    np.testing.assert_allclose(many, one, atol=1e-12)


def test_a_difference_is_that_of_the_same_resamples():
    true, good = simulated(40, 5, 0.8, 7)
    worse = good + 0.3 * np.random.default_rng(8).normal(size=good.shape)
    point, low, high = lds_difference(true, good, worse)
    first, second = lds_interval(true, good), lds_interval(true, worse)
    assert point == pytest.approx(first[0] - second[0])
    assert 0 < low < point < high
    # One by one the two overlap; what they share is no doubt about which is better.
    assert first[1] < second[2] and high - low < (first[2] - first[1]) / 2
    assert lds_difference(true, good, good) == (0, 0, 0)
    flipped = lds_difference(true, worse, good)
    np.testing.assert_allclose(flipped, (-point, -high, -low), atol=1e-12)


# --- choosing the damping -----------------------------------------------------------------------


def test_the_damping_is_chosen_on_one_half_and_reported_on_the_other():
    true, _ = simulated(40, 3, 0.0, 10)
    predicted = {r: simulated(40, 3, 0.0, 11 + i)[1] for i, r in enumerate((0.01, 0.1, 1.0))}
    ratio, held_out = choose(true, predicted, seed=5)
    assert len(held_out) == 20 and (np.diff(held_out) > 0).all()
    seen = np.setdiff1d(np.arange(40), held_out)
    best = max(predicted, key=lambda r: lds(true[seen], predicted[r][seen]).mean())
    assert ratio == best
    # What the held-out rows say has no part in the choice.
    predicted = {r: p.copy() for r, p in predicted.items()}
    for r in predicted:
        predicted[r][held_out] = true[held_out] * (-1 if r == best else 1)
    again, rows = choose(true, predicted, seed=5)
    assert again == ratio and (rows == held_out).all()
    assert not np.array_equal(choose(true, predicted, seed=6)[1], held_out)


def test_the_best_of_many_is_not_best_by_luck_on_held_out_rows():
    chosen, reported = [], []
    for trial in range(40):
        rng = np.random.default_rng(trial)
        true = rng.normal(size=(20, 2))
        predicted = {float(r): rng.normal(size=(20, 2)) for r in range(8)}
        ratio, held_out = choose(true, predicted, seed=trial)
        seen = np.setdiff1d(np.arange(20), held_out)
        chosen.append(lds(true[seen], predicted[ratio][seen]).mean())
        reported.append(lds(true[held_out], predicted[ratio][held_out]).mean())
    assert np.mean(chosen) > 0.2
    assert abs(np.mean(reported)) < 0.1


def test_a_choice_needs_something_to_choose_from():
    true, predicted = simulated(3, 2, 0.5, 12)
    with pytest.raises(ValueError, match="4 subsets at least; got 1 and 3"):
        choose(true, {0.1: predicted})
    with pytest.raises(ValueError, match="got 0 and 3"):
        choose(true, {})


# --- the ceiling --------------------------------------------------------------------------------


def seeds(count: int, m: int, q: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the subsets do [m, q], and that seen through the noise of each seed [s, m, q]."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(m, q))
    return signal, signal + noise * rng.normal(size=(count, m, q))


def test_correlation_between_seeds_is_the_mean_over_pairs():
    _, true = seeds(4, 15, 3, 0.7, 13)
    exact = [
        np.mean(
            [spearmanr(true[a, :, q], true[b, :, q]).statistic for a in range(4) for b in range(a)]
        )
        for q in range(3)
    ]
    np.testing.assert_allclose(noise_ceiling(true).between, exact, atol=1e-12)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("averaged", [None, 1])
def test_a_perfect_prediction_reaches_the_ceiling(monkeypatch, noise, averaged):
    monkeypatch.setattr(module, "RESAMPLES", 200)
    signal, true = seeds(3, 500, 12, noise, 14)
    table, count = (true.mean(0), 3) if averaged is None else (true[0], averaged)
    ceiling, low, high = noise_ceiling(true, averaged).ceiling
    assert lds(table, signal).mean() == pytest.approx(ceiling, abs=0.03)
    assert low < ceiling < high and high - low < 0.1
    # In closed form, for normal outputs: the share of the signal in their deviation.
    share = 1 / (1 + noise**2 / count) ** 0.5
    assert ceiling == pytest.approx(rank_correlation(share), abs=0.03)


def test_noise_has_no_ceiling():
    true = np.random.default_rng(16).normal(size=(2, 16, 200))
    found = noise_ceiling(true)
    assert found.ceiling[0] < 0.25 and found.ceiling[1] == 0
    # The mean of the queries' own roots would be no estimate of nothing.
    assert np.sqrt(np.maximum(found.between, 0)).mean() > 0.15
    assert noise_ceiling(np.stack([true[0], -true[0]])).ceiling == (0, 0, 0)


def test_noise_that_queries_share_has_no_ceiling(monkeypatch):
    """The queries of a table share their models, and so their luck."""
    monkeypatch.setattr(module, "RESAMPLES", 200)
    rng, low = np.random.default_rng(16), []
    for _ in range(40):
        own, common = rng.normal(size=(2, 8, 30)), rng.normal(size=(2, 8, 1))
        low.append(noise_ceiling(own + common).ceiling[1])
    assert sum(each > 0 for each in low) <= 4


def test_an_interval_ends_at_one():
    rng = np.random.default_rng(1)
    predicted = rng.normal(size=(16, 5))
    point, _, high = lds_interval(predicted + 0.1 * rng.normal(size=(16, 5)), predicted)
    assert point < high <= 1


def test_one_seed_says_nothing_of_noise():
    with pytest.raises(ValueError, match="at least 2 seeds per subset; got 1"):
        noise_ceiling(np.ones((1, 8, 2)))


# --- how many models ----------------------------------------------------------------------------


def test_so_many_models_give_that_interval():
    true, predicted = simulated(60, 4, 0.4, 17)
    needed = models_needed(true, predicted, 0.08)
    assert needed > 60
    _, low, high = lds_interval(*simulated(needed, 4, 0.4, 18))
    assert (high - low) / 2 == pytest.approx(0.08, rel=0.25)
    # Half as wide takes four times as many.
    assert models_needed(true, predicted, 0.04) == pytest.approx(4 * needed, abs=4)


def test_an_interval_has_a_width():
    with pytest.raises(ValueError, match=r"above 0; got 0\.0"):
        models_needed(*simulated(10, 1, 0.5, 19), half_width=0.0)
