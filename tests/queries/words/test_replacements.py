"""Captions with other words in them."""

import pytest

from headwater.queries.words.replacements import Insertions, exchanged


@pytest.mark.parametrize(
    ("text", "words", "other", "result"),
    [
        ("a red star", "red", "orange", "an orange star"),
        ("An orange star", "orange", "red", "A red star"),
        ("a Red star, a reddish moon", "red", "blue", "a blue star, a reddish moon"),
        ("a polka  dot shirt", "polka dot", "striped", "a striped shirt"),
        ("stars", "star", "moon", "stars"),
        ("一只猫", "猫", "狗", "一只狗"),
        (r"a red star", "red", r"\1", r"a \1 star"),  # taken as it is
    ],
)
def test_words_are_exchanged(text, words, other, result):
    assert exchanged(text, words, other) == result


CAPTIONS = [
    "a red star",
    "a star",
    "a star on a plain background",
    "a star in neon style",
    "a blue house in flat style on a wavy background",
]


@pytest.mark.parametrize(
    ("values", "caption", "value", "result"),
    [
        # between its neighbours, as two captions show that differ in it
        (["red"], "a star in the sky", "orange", "an orange star in the sky"),
        # with the words that go with it
        (["plain", "wavy"], "a green star", "wavy", "a green star on a wavy background"),
        (["neon"], "one more star", "flat", "one more star in flat style"),
        # as one caption shows by itself: "a house on a wavy background" is not among them
        (["flat"], "a house on a hill", "neon", "a house in neon style on a hill"),
        # nowhere
        (["red"], "two moons", "red", "two moons, red"),
        (["red"], "", "red", "red"),
        ([], "a star", "red", "a star, red"),
    ],
)
def test_a_value_is_put_where_others_have_one(values, caption, value, result):
    assert Insertions(CAPTIONS, values)(caption, value) == result
