"""Every score rule against its formula with an explicit float64 inverse, dual and primal."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.brute_force import (
    exact_scores,
    inverse,
    kernel_of,
    made,
    relative_error,
    scored,
)

from headwater import Contribution
from headwater.attribution.answer.bootstrap import certainty
from headwater.attribution.answer.result import Attribution, leading
from headwater.attribution.scores import RULES, Scored, mean_over_checkpoints, without_own

RATIOS = (1e-3, 0.1, 10.0)


@pytest.mark.parametrize("n, k", [(20, 50), (50, 20)], ids=["dual", "primal"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_its_formula_at_every_damping(rule, n, k):
    """All dampings in one pass."""
    phi, psi, errors = made(n, k)
    found = RULES[rule].score(kernel_of(phi, errors), psi, RATIOS)
    answers = []
    for ratio in RATIOS:
        ours = found[ratio].answer()[0].double()
        exact = exact_scores(rule, phi, psi, ratio, errors)
        assert relative_error(ours, exact) < 2e-3, ratio
        answers.append(exact)
    damped = rule not in ("dot", "cosine")
    assert (relative_error(answers[0], answers[1]) > 0.01) == damped == RULES[rule].inverts


@pytest.mark.parametrize("n, k", [(20, 50), (50, 20), (30, 30)])
@pytest.mark.parametrize("ratio", RATIOS)
def test_what_rules_ask_of_the_kernel(n, k, ratio):
    phi, _, _ = made(n, k)
    kernel, solve = kernel_of(phi), inverse(phi.double(), ratio)
    leverage = torch.einsum("ik,kl,il->i", phi.double(), solve, phi.double()) / n
    assert (leverage > 0).all() and (leverage < 1).all()
    ours = kernel.leverage(ratio).double()
    assert (ours > 0).all() and (ours < 1).all()
    torch.testing.assert_close(ours, leverage, rtol=1e-3, atol=1e-5)
    solved = (phi.double() @ solve).norm(dim=1)
    torch.testing.assert_close(kernel.solved_norms(ratio).double(), solved, rtol=2e-3, atol=0)
    torch.testing.assert_close(kernel.norms(), phi.norm(dim=1))


def test_cosine_is_that_of_the_mean_draw_and_ignores_lengths():
    phi, psi, _ = made(20, 50)
    ours = scored("cosine", phi, psi).answer()[0]
    mean = psi.mean(0, keepdim=True)
    torch.testing.assert_close(ours, torch.nn.functional.cosine_similarity(mean, phi))
    longer = scored("cosine", phi * torch.rand(20, 1), 9 * psi).answer()[0]
    torch.testing.assert_close(longer, ours)
    assert ours.abs().max() <= 1


def test_das_squares_each_draw_or_their_mean():
    """The mean of squares is a norm over random outputs; opposite draws cancel before a square."""
    phi, psi, errors = made(20, 50)
    opposite = torch.cat([psi[:1], -psi[:1]])
    each = scored("das", phi, opposite, errors).answer()
    one = scored("das", phi, psi[:1], errors).answer()
    assert relative_error(each, one) < 1e-4
    assert scored("das-l1", phi, opposite, errors).answer().abs().max() < 1e-6 * one.max()
    signed = scored("das-concept-trak", phi, psi, errors).answer()
    assert (signed < 0).any() and (each > 0).all()


def test_weights_of_draws_are_those_of_a_mean():
    phi, psi, errors = made(20, 50)
    weights = torch.tensor([[1.0, 0, 0], [0.5, 0.25, 0.25]])
    for rule in RULES:
        if rule == "cosine":  # whose length is that of all draws
            continue
        ours = scored(rule, phi, psi, errors).answer(weights)
        for found, rows in zip(ours, (psi[:1], psi[[0, 0, 1, 2]]), strict=True):
            assert relative_error(found, scored(rule, phi, rows, errors).answer()[0]) < 1e-4


@pytest.mark.parametrize("rule", ["trak", "das-l1"])
def test_a_mean_over_checkpoints_has_a_kernel_for_each(rule):
    parts = [made(20, 50), made(20, 50)]
    each_one = [scored(rule, *part) for part in parts]
    ours = mean_over_checkpoints(each_one).answer()[0].double()
    if rule == "trak":
        exact = sum(exact_scores(rule, phi, psi) for phi, psi, _ in parts) / 2
    else:  # each checkpoint's answer is squared, then the mean is taken
        exact = sum(each.draws.double().mean(0).square() for each in each_one) / 2
    assert relative_error(ours, exact) < 1e-3


FEW_VALUES = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=30)


@given(FEW_VALUES, st.integers(0, 40))
def test_the_highest_are_those_of_a_full_sort(values, count):
    """Few values, so that many are equal."""
    scores = np.array(values)
    assert leading(scores, count).tolist() == np.argsort(-scores, kind="stable")[:count].tolist()


@given(FEW_VALUES, st.none() | st.sets(st.integers(0, 29)), st.integers(0, 40))
def test_the_first_rows_by_rank_are_those_of_a_full_sort(values, chosen, count):
    """Candidates before all others; few values, so that many are equal."""
    rows = range(len(values))
    among = None if chosen is None else tuple(chosen.intersection(rows))
    question, no_index = Contribution("a red star", "star"), cast(Any, None)
    answer = Attribution(question, "", "trak", np.array(values), no_index, {}, among=among)
    ranked = sorted(rows, key=lambda row: (among is not None and row not in among, -values[row]))
    assert answer.order().tolist() == ranked
    assert answer.order(count=count).tolist() == ranked[:count]
    lowest = np.negative(values)
    ranked.sort(key=lambda row: (among is not None and row not in among, values[row], row))
    assert answer.order(lowest, count).tolist() == ranked[:count]


def test_errors_are_those_of_the_draws_that_are_not_an_images_own():
    """As a bootstrap of these alone says it, for images that are in several draws, one, or none."""
    torch.manual_seed(3)
    draws, rows = torch.randn(12, 3), [{0}, {0, 1}, {0}, *[set()] * 9]
    found = certainty(without_own(Scored(draws), rows), k=1)
    for image in range(3):
        others = torch.stack(
            [d for d, own in zip(draws[:, image], rows, strict=True) if image not in own]
        )
        alone = others.var(correction=0).sqrt() / len(others) ** 0.5
        assert found.errors[image] == pytest.approx(alone.item(), rel=0.15)
    means = [draws[3:, 0].mean(), draws[[0, *range(2, 12)], 1].mean(), draws[:, 2].mean()]
    torch.testing.assert_close(without_own(Scored(draws), rows).answer()[0], torch.stack(means))
