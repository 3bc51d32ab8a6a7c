"""The words of a prompt that could be asked about."""

import pytest

from headwater.queries.concept import Concept
from headwater.queries.words.content import content_words

PROMPTS = {
    "a red star in hatched style": ["red", "star", "hatched", "style"],
    "A photo of sks dog, wearing a hat": ["photo", "sks", "dog", "wearing", "hat"],
    "1girl, solo, blue hair, (smile:1.2), 4k": ["1girl", "solo", "blue hair", "smile", "4k"],
    "Pikachu in the style of Pablo Picasso": ["Pikachu", "Pablo Picasso"],
    "Pikachu in the style of graffiti art": ["Pikachu", "graffiti", "art"],
    "a fox in New York, by Pablo  Ruiz Picasso": ["fox", "New York", "Pablo Ruiz Picasso"],
    "The White House at night": ["White House", "night"],
    "A Red Star In Hatched Style": ["Red", "Star", "Hatched", "Style"],
    "star, star, Star": ["star", "Star"],
    "the, of 12 !": [],
    "a t-shirt with O'Neill's logo": ["t-shirt", "O'Neill's", "logo"],
    "eine Katze": ["eine", "Katze"],
    "一只红色的猫": [],
    "": [],
}  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS)
def test_words(prompt):
    assert content_words(prompt) == PROMPTS[prompt]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_each_can_be_asked_about(prompt):
    for words in content_words(prompt):
        Concept(prompt + ", and more", words)
