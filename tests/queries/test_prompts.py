import pytest

from headwater.queries.prompts import contains, without

LONG = "a red star in hatched style on a striped background"

# fmt: off
CASES = [
    ("Pikachu in the style of Pablo Picasso", "Pablo Picasso", "Pikachu"),
    ("Pikachu in the style of Pablo Picasso", "Pikachu", "in the style of Pablo Picasso"),
    (LONG, "hatched", "a red star on a striped background"),
    (LONG, "striped", "a red star in hatched style on a background"),
    (LONG, "red", "a star in hatched style on a striped background"),
    ("a star on a striped background", "star", "on a striped background"),
    ("an orange star", "orange", "a star"),
    ("a red arrow", "red", "an arrow"),
    ("A Red arrow", "red", "An arrow"),
    ("a cat with a hat", "hat", "a cat"),
    ("a cat with a hat in the rain", "hat", "a cat in the rain"),
    ("a cat, a dog, and a bird", "dog", "a cat, and a bird"),
    ("portrait of a woman, oil painting", "oil painting", "portrait of a woman"),
    ("old woman", "old", "woman"),
    ("a star and a star", "star", ""),
    ("star", "star", ""),
    ("an oil painting of  a  New   York street", "new york", "an oil painting of a street"),
]
# fmt: on


@pytest.mark.parametrize("prompt, words, left", CASES)
def test_what_is_left(prompt, words, left):
    assert contains(prompt, words)
    assert without(prompt, words) == left


@pytest.mark.parametrize(
    "prompt, words",
    [("a starlit sky", "star"), ("a red star", "blue"), ("a star", " ")],
)
def test_only_whole_words_count(prompt, words):
    assert not contains(prompt, words)


def test_words_are_no_pattern():
    assert without("what (is) this", "(is)") == "what this"
