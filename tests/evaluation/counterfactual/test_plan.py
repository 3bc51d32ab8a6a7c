"""Which images are taken out of what, and what cannot be done."""

from dataclasses import replace

import numpy as np
import pytest

from headwater import load_dataset
from headwater.errors import ParameterError, QueryError
from headwater.evaluation.counterfactual.plan import (
    RemovalPlan,
    check_plan,
    remaining_rows,
    removal_tasks,
)
from headwater.evaluation.ground_truth.classifiers import ScenesClassifier
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.ground_truth.oracles import ORACLES, break_ties
from headwater.evaluation.retraining.config import ModelConfig, Phase


def test_the_highest_are_taken_out():
    scores = np.round(np.random.default_rng(0).normal(size=30))  # many ties: the data set's order
    for k in (1, 7, 29):
        gone = sorted(range(30), key=lambda row: (-scores[row], row))[:k]
        assert remaining_rows(scores, k) == tuple(row for row in range(30) if row not in gone)


def test_baselines_take_out_what_is_named_and_what_is_shown():
    shows, names = np.arange(30) % 3 == 0, np.arange(30) % 5 == 0
    truth = Truth("cat", "a cat", shows, np.zeros(30, bool), names, {})
    for name, true_of in {"caption": names, "truth": shows}.items():
        scores, count = break_ties(ORACLES[name].scores([truth]))[0], int(true_of.sum())
        assert remaining_rows(scores, count) == tuple(np.flatnonzero(~true_of))
        left = remaining_rows(scores, count + 3)  # without others too
        assert len(left) == 27 - count and not true_of[list(left)].any()


def test_ambiguous_images_are_taken_out_between():
    """They are taken out before what surely does not show it."""
    shows, ambiguous = np.arange(30) % 3 == 0, np.arange(30) % 3 == 1
    truth = Truth("cat", "a cat", shows, ambiguous, shows, {})
    scores = break_ties(ORACLES["truth"].scores([truth]))[0]
    assert remaining_rows(scores, 10) == tuple(np.flatnonzero(~shows))
    assert remaining_rows(scores, 20) == tuple(np.flatnonzero(~shows & ~ambiguous))


def test_a_model_for_each_removal():
    scores = np.arange(5.0)
    found = removal_tasks("A cat", {"random": scores, "caption": -scores}, [1, 3], seeds=2)
    assert list(found) == [("random", 1), ("random", 3), ("caption", 1), ("caption", 3)]
    first, again = found["caption", 3]
    assert first.rows == again.rows == (3, 4) and (first.seed, again.seed) == (0, 1)
    names = [task.name for each in found.values() for task in each]
    assert first.name.startswith("a-cat-caption-0003-seed0-") and len(set(names)) == 8
    other = removal_tasks("A cat", {"caption": scores}, [3])["caption", 3][0]
    assert other.rows != first.rows and other.name != first.name
    assert not any(task.kept for each in found.values() for task in each)


def test_concepts_that_would_share_files(tmp_path):
    truths = [Truth(w, w, *[np.array([True, False])] * 3, {}) for w in ("c++", "c")]
    data = load_dataset("scenes").first(20)
    plan = RemovalPlan(
        tmp_path, ModelConfig((Phase(1),)), data, truths, ScenesClassifier(), ["random"], [3]
    )
    with pytest.raises(QueryError, match=r"c\+\+ and c would share files: a folder for each"):
        check_plan(plan)


@pytest.mark.parametrize("name", ["trak", "pixel-cosine"])
def test_parameters_of_a_method_without_gradients_here(tmp_path, name):
    plan = RemovalPlan(
        tmp_path, ModelConfig((Phase(1),)), load_dataset("scenes").first(20), [],
        ScenesClassifier(), ("concept-trak", "pixel-cosine"), (3,),
        recipes={"concept-trak": {"parameters": "all"}},
    )  # fmt: skip
    check_plan(plan)
    with pytest.raises(ParameterError, match=f"a recipe of {name}, which takes no gradients"):
        check_plan(replace(plan, recipes={name: {"parameters": "all"}}))
