"""Sequential decisions beside those of a whole table, and which losses they take."""

import pytest
import torch

from headwater.attribution.scorers.content.sequential import (
    ENOUGH,
    Course,
    course_of,
    explained_best,
)

ALL = Course(range(3), [torch.inf, torch.inf, 0.0])


@pytest.fixture
def table():
    """Losses [t, n, v] with a share for each (image, caption) and noise of each timestep."""
    generator = torch.Generator().manual_seed(0)
    lasting = 3 * torch.randn(1, 200, 4, generator=generator).double()
    return lasting + torch.tensor([0.3, 1.0, 3.0])[:, None, None] * torch.randn(
        3, 200, 4, generator=generator
    )


def taken(table, course):
    """The answer, how many losses it took, and which."""
    asked = []

    def losses(places, caption, t):
        asked.extend((t, place, caption) for place in places)
        return table[t, places, caption]

    best, count = explained_best(losses, table.shape[1], table.shape[2], course)
    assert count == len(asked) == len(set(asked)), "none is asked for twice"
    return best, asked


def whole(table):
    return (table.sum(0)[:, 1:] > table.sum(0)[:, :1]).all(1)


def margins(table):
    """Of the first caption over the others."""
    return (table[..., 1:] - table[..., :1]).flatten(1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_without_bounds_it_is_the_whole_table_s(table, order):
    best, asked = taken(table, Course(order, ALL.bounds))
    assert torch.equal(best, whole(table)) and 0 < int(best.sum()) < 200
    assert next(t for t, place, _ in asked if place == 0) == order[0]


def test_the_last_timestep_alone_ends_a_pair_without_bounds(table):
    best, asked = taken(table, ALL)
    last = [(place, caption) for t, place, caption in asked if t == 2]
    lost = {place for place in range(200) if not best[place]}
    later = {place for place, caption in last if caption == 3}
    assert len([1 for t, *_ in asked if t < 2]) == 2 * 200 * 4
    assert lost - later, "who lost to the second caption is not held against the fourth"


def test_a_sample_is_decided_as_by_all_its_losses(table):
    """Which is what its bounds are for; and for a part of the losses."""
    best, asked = taken(table, course_of(margins(table)))
    assert torch.equal(best, whole(table))
    assert len(asked) < 0.7 * len(taken(table, ALL)[1])


def test_bounds_are_the_largest_sums_that_turned():
    """Counted by hand: after the first timestep 0.4 turned, after the second 0.1."""
    few = torch.tensor([[2.0, 0.4, 1.0], [1.0, -0.3, 1.0], [0.5, -0.3, 0.5]]).double()
    course = course_of(few.repeat(1, ENOUGH))
    assert list(course.order) == [0, 1, 2]
    assert course.bounds == pytest.approx([0.4, 0.1, 0.0])


def test_the_most_telling_timestep_comes_first(table):
    assert list(course_of(margins(table) + 0.5).order) == [0, 1, 2]
    assert list(course_of(margins(table.flip(0)) + 0.5).order) == [2, 1, 0]


def test_of_a_small_sample_nothing_follows(table):
    small = margins(table)[:, : ENOUGH - 1]
    assert course_of(small) == Course(range(3), [torch.inf, torch.inf, 0.0])


def test_as_good_is_not_better():
    even = torch.ones(3, 2, 2).double()
    even[0, 1, 1] = 1.1
    assert taken(even, ALL)[0].tolist() == [False, True]
