"""What is no influence is not called so."""

import re

import pytest
from support.brute_force import made, scored
from support.report import ParsedPage, answer, entry, report

from headwater.attribution.scores import RULES
from headwater.methods.choice import measure
from headwater.methods.table import METHODS
from headwater.report.wording import WORDING


@pytest.mark.parametrize("measure", WORDING)
def test_what_is_no_influence_is_not_called_so(measure):
    page = ParsedPage(report(answer(measure=measure, bottom=[entry(7, score=0.1)]))).text
    signed = measure in ("influence", "influence with presence")
    assert ("pushes the model towards “star”" in page) == (measure == "influence")
    assert ("would gain less by the words “star”" in page) == (measure == "influence with presence")
    assert ("no image is an opponent" in page) == signed
    assert ("most similar to “star”" in page) == (measure == "similarity")
    assert ("random numbers" in page) == (measure == "chance")
    assert ("is a square" in page) == (measure == "strength")
    assert ("marks a proponent" in page) == (measure == "influence")
    assert bool(re.search("Proponents|Opponents", page)) == signed


def test_which_rules_square_their_scores():
    """A rule whose scores are never negative, whatever the query, has none to call opponents."""
    phi, psi, errors = made(60, 20)
    squares = {rule for rule in RULES if (scored(rule, phi, psi, errors).answer() >= 0).all()}
    for name, method in METHODS.items():
        assert (measure(name) == "strength") == (method.rule in squares)


@pytest.mark.parametrize("measure", WORDING)
def test_every_report_says_what_it_does_not_say(measure):
    page = ParsedPage(report(answer(measure=measure))).text
    assert "What this does not say" in page
    assert "that a picture is a copy" in page and "who has rights in it" in page
    asked = measure not in ("presence", "similarity", "patches", "chance")
    assert ("a score only estimates it" in page) == asked
    assert ("the method does not ask that" in page) == (not asked)
