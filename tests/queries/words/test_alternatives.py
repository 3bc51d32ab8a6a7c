"""Kinds of words, mined from small sets of captions with traps in them."""

import pytest

from headwater.queries.words.alternatives import MOST_VALUES, alternatives_of, mine_kinds
from headwater.scenes.dataset import pictures
from headwater.scenes.vocabulary import ATTRIBUTES


@pytest.mark.parametrize(
    ("captions", "kinds"),
    [
        # one word apart
        (["a red star", "a blue star"], [{"red", "blue"}]),
        # ... or an article
        (["a red star", "an orange star"], [{"red", "orange"}]),
        # values of several words, which are none word by word
        (["a polka dot shirt", "a striped shirt"], [{"polka dot", "striped"}]),
        (["a cat in New York", "a cat in Paris"], [{"New York", "Paris"}]),
        # two kinds at once, and no "red star" against "blue moon"
        (
            ["a red star", "a blue star", "a red moon", "a blue moon"],
            [{"red", "blue"}, {"star", "moon"}],
        ),
        # a word left out has no place
        (["a red star", "a star"], []),
        # the first words of a longer rest, or its last, are no value
        (["a cat on a mat", "a cat"], []),
        (["a cat on a mat", "a cat in a hat"], []),
        # function words and numbers stand in each other's place, and name nothing
        (["a cat on a mat", "a cat under a mat"], []),
        (["two cats", "three cats", "2 cats"], []),
        # what is in one caption with the other does not exclude it
        (["a red bus", "a large bus", "a large red bus"], []),
        # as they are written most often
        (["by Monet", "by Picasso", "BY PICASSO again", "Picasso"], [{"Monet", "Picasso"}]),
        # nothing to learn from
        (["a red star"] * 5, []),
        (["", " "], []),
        ([], []),
        # a script that puts no spaces between words
        (["一只红色的猫", "一只蓝色的猫"], []),
    ],
)
def test_what_stands_in_the_same_place(captions, kinds):
    mined = mine_kinds(captions)
    assert sorted(map(sorted, mined)) == sorted(map(sorted, kinds))


def test_neighbours_do_where_no_two_captions_are_alike():
    captions = [
        "a small red bus near a shop, at noon",
        "we saw a small blue bus near a park",
        "a red car in town",
        "a blue car in town that I had",
    ]
    assert set(mine_kinds(captions)[0]) == {"red", "blue"}
    assert mine_kinds(captions[:2]) == []  # one place is chance


def test_each_value_is_of_one_kind_and_the_most_frequent_comes_first():
    captions = ["a red star", "a blue star", "a red moon", "a red sun", "an orange star"]
    kinds = mine_kinds(captions)
    values = [value for kind in kinds for value in kind]
    assert len(values) == len(set(values))
    assert kinds[0][0] == "red"


def test_a_kind_has_an_end():
    captions = [f"a photo of a {letter}{number}" for letter in "bcdfgh" for number in range(9)]
    kinds = mine_kinds(captions)
    assert max(map(len, kinds)) == MOST_VALUES and len(kinds) > 1
    assert mine_kinds(reversed(captions)) == kinds


def test_the_scenes_kinds_are_their_attributes():
    """From captions that leave a fifth out; "shape" stands for objects that are not named."""
    kinds = mine_kinds(picture.caption for picture in pictures()[:1_000])
    exact = [set(values) for values in ATTRIBUTES.values()]
    assert [set(kind) - {"shape"} for kind in sorted(kinds)] == [
        each for kind in sorted(kinds) for each in exact if kind[-1] in each or kind[0] in each
    ]
    assert len(kinds) == 4


@pytest.mark.parametrize(
    ("concept", "values"),
    [
        ("red", ("blue", "red")),
        ("Red", ("blue", "Red")),
        ("bright red", ("bright blue", "bright red")),
        ("green", ()),
        ("red moon", ()),  # of two kinds: which is asked?
    ],
)
def test_alternatives_of_a_concept(concept, values):
    assert alternatives_of(concept, [("blue", "red"), ("moon", "star")]) == values
