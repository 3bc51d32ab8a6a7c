"""Templates escape, take out what cannot be seen, and refuse names that they are not given."""

import re
from importlib.resources import files

import pytest
from jinja2 import UndefinedError

from headwater.report.rendering import legible, render, signed_score

TEMPLATES = sorted(file.name for file in files("headwater.report").joinpath("templates").iterdir())


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("tab\tand\nline", "tab\tand\nline"),
        ("\x1b[31mred\x1b[0m", "�[31mred�[0m"),
        ("nul\0bell\adel\x7fc1\x9b", "nul�bell�del�c1�"),
        ("\u202aa\u202bb\u202cc\u202dd\u202e", "�a�b�c�d�"),
        ("\u2066a\u2067b\u2068c\u2069", "�a�b�c�"),
        ("windows\r\nmac\rlines", "windows\nmac\nlines"),
        ("half a pair \ud83d, a byte \udcff", "half a pair ?, a byte ?"),
        ("日本語 مرحبا é \u200e👩\u200d👧", "日本語 مرحبا é \u200e👩\u200d👧"),
    ],
)
def test_what_cannot_be_seen_is_replaced_and_all_else_stays(text, seen):
    assert legible(text) == seen == legible(seen)
    seen.encode("utf-8")


def test_a_name_that_is_not_given_is_an_error():
    with pytest.raises(UndefinedError, match="'answers' is undefined"):
        render("answers.html")


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".html")])
def test_no_template_marks_anything_safe(name):
    text = files("headwater.report").joinpath("templates", name).read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape|Markup", text)


def test_scores_have_the_minus_of_print_and_their_error():
    assert signed_score(-0.07312) == "\N{MINUS SIGN}0.0731"
    assert signed_score(-1.5e-9, 2.04e-10) == "\N{MINUS SIGN}1.50e\N{MINUS SIGN}09 ± 2.0e-10"
