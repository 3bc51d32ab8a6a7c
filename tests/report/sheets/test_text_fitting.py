"""Text in pictures fits, and what cannot be drawn comes close."""

import pytest
from support.report import AWKWARD

from headwater.report.sheets.text_fitting import (
    count_fitting,
    load_font,
    shorten,
    to_drawable,
    wrap,
)


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)
def test_wrapped_lines_fit_and_keep_every_word_or_end_in_an_ellipsis(text):
    lines = wrap(text, 13, 160, 2)
    assert len(lines) <= 2
    assert all(load_font(13).getlength(line) <= 160 for line in lines)
    if lines and lines[-1].endswith("…"):
        assert load_font(13).getlength(to_drawable(text)) > 160
    else:
        assert "".join(lines).replace(" ", "") == to_drawable(text).replace(" ", "")


def test_text_is_cut_between_words_where_that_costs_little():
    assert wrap("a star in dotted style", 13, 90, 1) == ["a star in…"]
    assert shorten("x" * 99, 13, 90) == "x" * count_fitting("x" * 99, 13, 90 - 9) + "…"


def test_letters_that_the_font_lacks_come_close():
    assert (
        to_drawable("  café\n—\tÅngström \N{MINUS SIGN} \u202e½")
        == "cafe - Angstrom - 1\N{FRACTION SLASH}2"
    )


def test_escape_codes_and_marks_of_direction_are_not_drawn():
    assert to_drawable("\x1b[31mred\x1b[0m\0 \u202efish\u2069 \x9b2J") == "[31mred[0m fish 2J"
    assert to_drawable("file \udcff.png") == "file .png"


def test_a_text_longer_than_pillow_measures_is_cut_like_any_other():
    assert wrap("a star " * 300_000, 13, 160, 2) == wrap("a star " * 300, 13, 160, 2)
    assert shorten("x" * 2_000_000, 13, 90) == shorten("x" * 99, 13, 90)
