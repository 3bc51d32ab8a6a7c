"""Plans of subset studies, and tables of scores whose worth is known."""

import numpy as np
import pytest

from headwater.evaluation.studies.subset_plan import (
    SubsetOutputs,
    SubsetPlan,
    collect,
    lds_rows,
)

PLAN = SubsetPlan(images=40, subsets=24, again=12, seed=3)


def measured(seed, noise):
    """Outputs that are minus the sum of known worths over each model's rows, and noise."""
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=(2, PLAN.images))  # of two queries
    found = []
    for task in PLAN.tasks():
        exact = -worth[:, list(task.rows)].sum(1)
        found.append({"losses": (exact + noise * rng.normal(size=2)).tolist(), "rest": [0.0]})
    return worth, found


def losses(each):
    return np.array(each["losses"])


def test_a_plan_has_one_model_of_everything_and_halves_some_of_them_twice():
    tasks = PLAN.tasks()
    assert len(tasks) == 1 + 24 + 12 and len({task.name for task in tasks}) == len(tasks)
    assert tasks[0] == PLAN.full and tasks[0].kept and tasks[0].rows == tuple(range(40))
    for i, half in enumerate(PLAN.chosen):
        assert np.flatnonzero(half).tolist() == list(tasks[1 + i].rows) and half.sum() == 20
    assert [task.rows for task in tasks[25:]] == [task.rows for task in tasks[1:13]]
    assert {task.seed for task in tasks[:25]} == {0} and {task.seed for task in tasks[25:]} == {1}
    longer = SubsetPlan(40, subsets=30, again=12, seed=3).tasks()
    assert longer[:25] == tasks[:25]  # asking for more keeps what is there


def test_outputs_come_in_the_order_of_the_plan():
    _, found = measured(0, noise=0.0)
    both = collect(PLAN, found, losses)
    assert both.outputs.shape == (24, 2) and both.repeated.shape == (2, 12, 2)
    np.testing.assert_array_equal(both.outputs[5], found[6]["losses"])
    np.testing.assert_array_equal(both.repeated[0, 5], found[6]["losses"])
    np.testing.assert_array_equal(both.repeated[1, 5], found[30]["losses"])


def test_true_worths_reach_the_ceiling_and_noise_does_not():
    worth, found = measured(1, noise=0.0)
    both = collect(PLAN, found, losses)
    random = np.random.default_rng(9).normal(size=worth.shape)
    rows = lds_rows(PLAN, both, {"right": worth, "wrong": -worth, "random": random}, "random")
    right, wrong, chance, ceiling = rows
    assert right["LDS"].mean == pytest.approx(1) and wrong["LDS"].mean == pytest.approx(-1)
    assert ceiling["LDS"].mean == pytest.approx(1) and right["of the ceiling"] == pytest.approx(1)
    assert chance["LDS"].low < 0 < chance["LDS"].high and chance["above 'random'"] is None
    assert right["above 'random'"].low > 0.3
    assert right["models for +-0.05"] < chance["models for +-0.05"]


def test_noise_lowers_the_ceiling_and_all_else_with_it():
    worth, found = measured(2, noise=4.0)
    both = collect(PLAN, found, losses)
    (row, ceiling) = lds_rows(PLAN, both, {"right": worth})
    assert 0.2 < ceiling["LDS"].mean < 0.95 and row["LDS"].mean < 0.95
    assert row["of the ceiling"] == pytest.approx(row["LDS"].mean / ceiling["LDS"].mean)


def test_without_second_seeds_there_is_no_ceiling():
    found = SubsetOutputs(np.random.default_rng(0).normal(size=(24, 2)), np.zeros((2, 0, 2)))
    assert found.ceiling() is None
    (row, ceiling) = lds_rows(PLAN, found, {"random": np.ones((2, 40))})
    assert row["of the ceiling"] is None and ceiling["LDS"] is None
    assert row["LDS"].mean == 0  # a score that tells no subsets apart
