"""Colours that tell things apart do so to the colour-blind, or something else tells it too."""

import re
from itertools import combinations
from pathlib import Path

import pytest
from support.colour_vision import JUST_SEEN, VISIONS, contrast, difference
from support.report import ParsedPage, answer, bar, report

from headwater.report import rendering
from headwater.report.charts import COLOURS, curves
from headwater.report.sheets.contact_sheet import ACCENT, INK, MUTED

TEMPLATES = Path(rendering.__file__).parent / "templates"
# Marks on a page lie apart and are small: several times what is just seen of fields that touch.
APART = 6 * JUST_SEEN


def colours(file: str, of: str) -> dict[str, str]:
    """What the variables of a style are where `of` holds."""
    rule = re.search(re.escape(of) + r"\s*\{([^}]*)\}", (TEMPLATES / file).read_text())
    assert rule, of
    return dict(re.findall(r"--(\w+): (#\w{6});", rule[1].replace("#fff;", "#ffffff;")))


DARK = "@media screen and (prefers-color-scheme: dark) {\n  :root"
LOOKS = {
    "a report": colours("style.css", ":root"),
    "a report in the dark": colours("style.css", ":root") | colours("style.css", DARK),
    "the page": {"paper": "#ffffff", **colours("view/style.css", ".hw")},
    "the page in the dark": {"paper": "#18181b", **colours("view/style.css", ".dark .hw")},
    "a sheet": {"ink": INK, "accent": ACCENT, "muted": MUTED},
}
# Proponents and opponents of groups; the bars of a histogram, and strokes at what is shown; bars
# and the strip that the highest stand in; what was asked for in a prompt, and the rest of it.
TOLD_APART = [("accent", "bar"), ("bar", "paper"), ("bar", "tint"), ("accent", "tint"),
              ("accent", "paper"), ("accent", "ink")]  # fmt: skip
PAIRS = [(look, *pair) for look, own in LOOKS.items() for pair in TOLD_APART if {*pair} <= {*own}]


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("look", "one", "other"), PAIRS)
def test_colours_that_tell_things_apart(look, one, other, vision):
    assert difference(LOOKS[look][one], LOOKS[look][other], vision) > APART


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("look", ["a report", "a report in the dark"])
def test_curves_of_any_two_colours(look, vision):
    """Every pair, since two curves of any two colours may have the same dashes."""
    own = [LOOKS[look][f"c{i}"] for i in range(COLOURS)]
    assert min(difference(*pair, vision) for pair in combinations(own, 2)) > APART
    assert min(contrast(each, LOOKS[look]["paper"]) for each in own) > 3
    lines = curves([9, 4], {f"feature {i}": [0.0, 1.0] for i in range(24)}).lines
    alike = {(a.colour, b.colour) for a, b in combinations(lines, 2) if a.dashes == b.dashes}
    assert len({frozenset(pair) for pair in alike}) == COLOURS * (COLOURS - 1) / 2


def test_what_colours_do_not_tell_something_else_does():
    assert difference("#ffffff", LOOKS["a report"]["tint"], "protanope") < APART
    page = ParsedPage(report(answer(groups=[bar("a", 0.4), bar("b", -0.4)], grouped_by="artist")))
    assert page.all("path", "threshold") and "Top 10: from" in page.text  # where the strip begins
    zeros = [float(path["d"][1:].split()[0]) for path in page.all("path", "zero")]
    (towards,), (away,) = page.all("rect", "for"), page.all("rect", "against")
    assert float(towards["x"]) == pytest.approx(zeros[0])  # to the right of it
    assert float(away["x"]) + float(away["width"]) == pytest.approx(zeros[1])  # to the left
    assert "above it and to the left below" in page.text


def test_differences_are_those_of_the_books():
    """Of white and black 100; of red and green by CIE 1976; and to nobody less than nothing."""
    assert difference("#ffffff", "#000000", "trichromat") == pytest.approx(100)
    assert difference("#ff0000", "#00ff00", "trichromat") == pytest.approx(170.58, abs=0.05)
    for vision in VISIONS:
        assert difference("#ffffff", "#000000", vision) == pytest.approx(100, abs=0.01)
        assert difference("#0b6e83", "#0b6e83", vision) == 0
    # what protanopes and deuteranopes mix up, and tritanopes do not
    seen = {vision: difference("#c05050", "#77773a", vision) for vision in VISIONS}
    assert seen["protanope"] < seen["tritanope"] > seen["deuteranope"]
