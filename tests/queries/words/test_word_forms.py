"""Near forms of words that texts hold."""

import pytest

from headwater.queries.words.word_forms import inflections, near_forms

# fmt: off
FORMS = [
    ("star", "stars"), ("stars", "star"), ("Star", "Stars"), ("red star", "red stars"),
    ("box", "boxes"), ("boxes", "box"), ("brush", "brushes"), ("watches", "watch"),
    ("glass", "glasses"), ("glasses", "glass"), ("city", "cities"), ("cities", "city"),
    ("boy", "boys"), ("boys", "boy"), ("pie", "pies"), ("pies", "pie"), ("horse", "horses"),
    ("horses", "horse"), ("knife", "knives"), ("leaves", "leaf"), ("woman", "women"),
    ("children", "child"), ("potatoes", "potato"), ("old woman", "old women"),
    ("red star", "red-star"), ("red star", "red_star"), ("red star", "redstar"),
    ("red-star", "red star"), ("red_stars", "red star"), ("t shirt", "t-shirts"),
    ("café", "cafe"), ("café", "cafe\u0301"), ("cafe\u0301", "café"),
]
# fmt: on


@pytest.mark.parametrize("words, form", FORMS)
def test_a_near_form_is_counted(words, form):
    assert form.lower() in [near.lower() for near in near_forms(words)]
    assert inflections(words, [f"two {form} on a hill", "a hill", words])[form] == 1


@pytest.mark.parametrize(
    "words", ["star", "bus", "glass", "猫", "३", "", "a", "café", "100", "red  star"]
)
def test_the_words_themselves_are_no_near_form(words):
    forms = near_forms(words)
    assert len(forms) == len(set(forms))
    assert " ".join(words.split()) not in forms and "" not in forms


def test_the_most_frequent_first():
    texts = ["red-star", "Red Stars", "red stars", "a redstar x", "red stars", "a redstart"]
    found = inflections("red star", texts)
    assert list(found.items()) == [("red stars", 3), ("red-star", 1), ("redstar", 1)]


def test_no_near_form():
    assert inflections("star", ["a starlit sky", "a starfish", ""]) == {}
    assert inflections("star", []) == {}


def test_vowel_signs_are_no_accents():
    assert "कतब" not in near_forms("किताब")
