"""Words found in prompts of any script, and what is left when they are taken out."""

# ruff: noqa: RUF001 - the punctuation of other scripts is meant

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.queries.words.prompts import (
    contains,
    held_by,
    pattern_for,
    without,
    word_pattern,
)

LONG = "a red star in hatched style on a striped background"

# fmt: off
SENTENCES = [
    ("Pikachu in the style of Pablo Picasso", "Pablo Picasso", "Pikachu"),
    ("Pikachu in the style of Pablo Picasso", "Pikachu", "in the style of Pablo Picasso"),
    ("Pikachu in the style of graffiti art", "graffiti art", "Pikachu"),
    ("Pikachu in the style of graffiti art", "Pikachu", "in the style of graffiti art"),
    ("Pikachu in the style of graffiti art", "graffiti", "Pikachu in the style of art"),
    ("Pikachu in the style of The Simpsons", "Simpsons", "Pikachu"),
    ("Pikachu in the style of The Simpsons", "The Simpsons", "Pikachu"),
    ("Pikachu in the art style of Picasso, at night", "Picasso", "Pikachu, at night"),
    ("Pikachu in the style of Picasso on a hill", "Picasso", "Pikachu on a hill"),
    ("Pikachu in the style of a Picasso print", "Picasso", "Pikachu in the style of a print"),
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
    ("a star's light", "star", "a light"),
    ("a star-shaped hat", "star", "a shaped hat"),
    ("a five-star hotel", "star", "a five hotel"),
    ("a rock-star-life", "star", "a rock-life"),
    ("look, a star!", "star", "look!"),
    ("a star!", "star", ""),
    ('a sign that says "star"', "star", "a sign that says"),
    ("a sign that says “star” in red", "star", "a sign that says in red"),
    ("night - star - day", "star", "night - day"),
    ("night - star", "star", "night"),
    ("star & moon", "moon", "star"),
    ("star & moon", "star", "moon"),
    ("star + moon", "moon", "star"),
    ("C++ star", "star", "C++"),
    ("what (is) this", "(is)", "what this"),
]
SYNTAX = [
    ("(star:1.2)", "star", ""),
    ("night, (star:1.2), day", "star", "night, day"),
    ("night, (star), day", "star", "night, day"),
    ("night, ((star)), day", "star", "night, day"),
    ("night, ((star:1.2):0.9), day", "star", "night, day"),
    ("night, [star], day", "star", "night, day"),
    ("night, [[star]] day", "star", "night, day"),
    ("night {star} day", "star", "night day"),
    ("night {{star}}", "star", "night"),
    (r"night \(star\) day", "star", "night day"),
    ("((star) night)", "star", "(night)"),
    ("(red star:1.2)", "star", "(red:1.2)"),
    ("(red star:1.2)", "red", "(star:1.2)"),
    ("(red, star:1.2)", "star", "(red:1.2)"),
    ("(star, red:1.2)", "star", "(red:1.2)"),
    ("(a star:1.2), night", "star", "night"),
    ("(a star in a red sky:1.2)", "red", "(a star in a sky:1.2)"),
    ("(a cat with a hat:1.2)", "hat", "(a cat:1.2)"),
    ("(star, star), night", "star", "night"),
    ("a (red:1.2) arrow", "red", "an arrow"),
    ("a cat with a (hat)", "hat", "a cat"),
    ("(star)++ night", "star", "night"),
    ("(star)1.2 night", "star", "night"),
    ("star++ night", "star", "night"),
    ("star:1.2, night", "star", "night"),
    ("night, star:1.2", "star", "night"),
    ("[star:moon:0.5]", "star", "[moon:0.5]"),
    ("[star:moon:0.5]", "moon", "[star::0.5]"),
    ("night [star:0.5]", "star", "night"),
    ("night [star::0.5]", "star", "night"),
    ("red|blue", "blue", "red"),
    ("red|blue", "red", "blue"),
    ("red | blue dog", "red", "blue dog"),
    ("[red|blue] dog", "red", "[blue] dog"),
    ("[red|blue] dog", "blue", "[red] dog"),
    ("{red|blue|green} dog", "blue", "{red|green} dog"),
    ("{big blue|green} dog", "blue", "{big|green} dog"),
    ("night::1 star::2", "star", "night::1"),
    ("star::2 night", "star", "night"),
    ("star:: night", "star", "night"),
    ("night:: star", "star", "night"),
    ("night::star::day", "star", "night:: day"),
    ("star <lora:x:1>", "star", "<lora:x:1>"),
    ("night <lora:star:1>", "star", "night"),
    ("night, <lora:red-star-v2:0.8>, day", "star", "night, day"),
    ("a photo of <star>", "star", "a photo"),
    ("_star_ night", "star", "night"),
    ("__star__ night", "star", "night"),
    ("**star** night", "star", "night"),
    ("'star' night", "star", "night"),
    ("red_star, night", "star", "red, night"),
    ("red_star, night", "red", "star, night"),
    ("big_red_star", "red", "big_star"),
    ("#star #night", "star", "#night"),
    ("night #star", "star", "night"),
    ("#red_star", "star", "#red"),
    ("1girl, star, night", "star", "1girl, night"),
    ("1girl,star,night", "star", "1girl,night"),
    ("1girl , star , night", "star", "1girl, night"),
    ("star, night", "star", "night"),
    ("1girl, star", "star", "1girl"),
    ("(1girl, star)", "star", "(1girl)"),
    ("1girl, star, star, night", "star", "1girl, night"),
    ("night, star BREAK day", "star", "night BREAK day"),
    ("night BREAK star", "star", "night"),
    ("night AND star", "star", "night"),
]
SCRIPTS = [
    ("一只红色的猫坐在屋顶上", "猫", "一只红色的坐在屋顶上"),
    ("一只红色的猫坐在屋顶上", "红色", "一只猫坐在屋顶上"),
    ("猫，狗，鸟", "狗", "猫，鸟"),
    ("猫，狗", "狗", "猫"),
    ("（猫）、狗", "猫", "狗"),
    ("用AI画的画", "AI", "用画的画"),
    ("用AI画cat", "画", "用AI cat"),
    ("3只猫", "3", "只猫"),
    ("赤い星のイラスト", "星", "赤いイラスト"),
    ("「星」のイラスト", "星", "イラスト"),
    ("ﾈｺ の絵", "ﾈｺ", "の絵"),
    ("แมวสีแดง", "แมว", "สีแดง"),
    ("ແມວສີແດງ", "ແມວ", "ສີແດງ"),
    ("ឆ្មាក្រហម", "ឆ្មា", "ក្រហម"),
    ("ကြောင်နီ", "ကြောင်", "နီ"),
    ("빨간 고양이가 지붕에 있다", "고양이", "빨간 지붕에 있다"),
    ("고양이 그림", "고양이", "그림"),
    ("красная звезда", "звезда", "красная"),
    ("ένα κόκκινο αστέρι", "κόκκινο", "ένα αστέρι"),
    ("लाल किताब", "किताब", "लाल"),
    ("نجمة حمراء", "حمراء", "نجمة"),
    ("כוכב אדום", "אדום", "כוכב"),
]
# fmt: on


@pytest.mark.parametrize("prompt, words, left", [*SENTENCES, *SYNTAX, *SCRIPTS])
def test_what_is_left(prompt, words, left):
    assert contains(prompt, words)
    assert without(prompt, words) == left
    assert not contains(left, words)


@pytest.mark.parametrize("prompt, words, left", SYNTAX)
def test_brackets_stay_in_pairs_and_hold_something(prompt, words, left):
    made = without(f"before, {prompt}, after", words)
    assert made.startswith("before") and made.endswith("after")
    for opening, closing in ("()", "[]", "{}", "<>"):
        assert made.count(opening) == made.count(closing)
        assert opening + closing not in made
    assert ",," not in made and ", ," not in made and "  " not in made and "\0" not in made


@pytest.mark.parametrize(
    "prompt, words",
    [
        ("a starlit sky", "star"),
        ("a red star", "blue"),
        ("a star", " "),
        ("a star", ""),
        ("two stars", "star"),
        ("звезды", "звезд"),
        ("αστέρια", "αστέρι"),
        ("कितब", "कि"),  # a word's beginning, with its vowel sign
        ("की", "क"),  # a letter without its vowel sign
        ("สี", "ส"),
        ("cafe\u0301", "cafe"),
        ("고양이", "양이"),
        ("고양이집", "고양이"),
        ("نجمتان", "نجم"),
        ("13D", "3D"),
        ("#redstar", "star"),
    ],
)
def test_only_whole_words_count(prompt, words):
    assert not contains(prompt, words)
    assert without(prompt, words) == prompt


def test_an_emoji_with_its_presentation_is_found():
    assert contains("a \u2b50\ufe0f sky", "\u2b50")


def test_however_deep_the_brackets_are():
    assert without(f"night, {'(' * 2000}star{')' * 2000}", "star") == "night"


@pytest.mark.parametrize(
    ("prompt", "words", "anchor", "made"),
    [
        ("an orange star in neon style", "star", "shape", "an orange shape in neon style"),
        ("a star and a moon", "star", "object", "an object and a moon"),
        ("An apple, apples", "apple", "fruit", "A fruit, apples"),
        ("a star, the star", "star", " thing ", "a thing, the thing"),
        ("a star", "star", r"\1", r"a \1"),  # no pattern either
        ("a star", "star", " ", ""),
    ],
)
def test_an_anchor_stands_in_the_place(prompt, words, anchor, made):
    assert without(prompt, words, anchor) == made


def test_words_are_no_pattern():
    assert not contains("what is this", "w.at") and contains("what (is.) this", "(is.)")


def test_replacing_keeps_what_is_around():
    assert word_pattern("star").sub("moon", "a (star:1.2), Star's") == "a (moon:1.2), moon's"
    assert word_pattern("星").sub("月", "赤い星の") == "赤い月の"


@given(st.text(" \t\x1caBk.'_-1", max_size=12), st.text(" aBk.'_-1", max_size=5))
def test_in_a_text_of_ascii_the_short_pattern_finds_the_same(text, words):
    found = [match.span() for match in pattern_for(text, words).finditer(text)]
    assert found == [match.span() for match in word_pattern(words).finditer(text)]
    assert held_by(text, [words, "k"]) == [each for each in (words, "k") if contains(text, each)]
    assert contains(text, words) is (word_pattern(words).search(text) is not None)
