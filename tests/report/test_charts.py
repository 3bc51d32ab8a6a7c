"""Marks stand where their numbers are."""

import re
from dataclasses import replace

import numpy as np
import pytest
from support.report import EMPTY_PAGE, ParsedPage, answer, made_up_journey, report

from headwater.attribution.answer.groups import Group
from headwater.report import html
from headwater.report.charts import BINS, CURVES_FRAME, HISTOGRAM_FRAME, TOP, curves, spans
from headwater.report.page import render_page

FRAME = HISTOGRAM_FRAME


def test_the_histogram_is_of_those_that_competed():
    scores = [0.1 * i for i in range(40)]
    limited = answer(scores=scores, competing=range(5, 35), remarks=["Only <30> competed."])
    page = ParsedPage(report(limited)).text
    assert "Top 10: from +2.50" in page and "10 highest of 30" in page
    assert "Scores of all candidates" in page and "Training images 40" in page
    assert "Only <30> competed." in page


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e7])
@pytest.mark.parametrize("n", [2, 30, 2_000])
def test_histogram_bars_have_the_logarithm_of_the_counts(n, scale):
    scores = (np.random.default_rng(n).laplace(size=n) * scale).tolist()
    page = ParsedPage(report(answer(scores=scores)))
    counts, edges = np.histogram(scores, BINS)
    bars = page.all("rect", "bar")
    height = np.array([float(bar["height"]) for bar in bars])
    # log(2 count) is a fixed share of the height: half an image is the foot of the axis.
    share = (FRAME.bottom - FRAME.top) / np.log(2.5 * counts.max())
    np.testing.assert_allclose(np.exp(height / share) / 2, counts[counts > 0], rtol=1e-3)
    assert all(abs(float(bar["y"]) + float(bar["height"]) - FRAME.bottom) < 0.02 for bar in bars)
    # The bars stand at their bins: the middle of a bar is that of its bin, on one straight line.
    middle = [float(bar["x"]) + float(bar["width"]) / 2 for bar in bars]
    bins = ((edges[1:] + edges[:-1]) / 2)[counts > 0]
    np.testing.assert_allclose(
        middle,
        FRAME.left + (FRAME.right - FRAME.left) * (bins - edges[0]) / np.ptp(edges),
        atol=0.02,
    )


def test_the_histogram_marks_the_tenth_highest_score():
    scores = [i / 100 for i in range(101)]
    page = ParsedPage(report(answer(scores=scores)))
    (line,) = page.all("path", "threshold")
    x = float(re.match(r"M([\d.]+) ", line["d"]).group(1))
    assert (x - FRAME.left) / (FRAME.right - FRAME.left) == pytest.approx(0.91, abs=1e-3)
    assert "Top 10: from +0.910" in page.text and "10 highest of 101" in page.text
    assert page.all("path", "band") and not ParsedPage(report(answer(scores=scores[:TOP]))).all(
        "path", "band"
    )


@pytest.mark.parametrize(
    "scores",
    [[0.0], [0.3] * 20, [1e-12, 1.0000001e-12], [0.1, 0.1 + 1e-17, 0.1 + 2e-17], [-5e9, 7.0]],
)
def test_histograms_of_odd_scores_stand_inside_their_frame(scores):
    page = ParsedPage(report(answer(scores=scores)))
    labels = [float(text["x"]) for text in page.all("text", "tick")]
    bars = page.all("rect", "bar")
    assert bars and 3 <= len(labels) <= 20 and max(labels) <= 600
    assert all(64 <= float(bar["x"]) and float(bar["y"]) >= FRAME.top for bar in bars)


def test_no_scores_no_histogram():
    assert ParsedPage(report(answer(scores=[]))).all("svg") == []


@pytest.mark.parametrize(
    ("scores", "names"),
    [
        ([-0.05, 0.058], "-0.04 -0.02 0 +0.02 +0.04"),
        ([-3.0, 2.0], "-3 -2 -1 0 +1 +2"),
        ([0.0, 3e-6], "0 +5e-07 +1e-06 +1.5e-06 +2e-06 +2.5e-06 +3e-06"),
        ([-2e8, 2e8], "-2e+08 -1e+08 0 +1e+08 +2e+08"),
    ],
)
def test_the_score_axis_has_round_numbers(scores, names):
    text = ParsedPage(report(answer(scores=scores))).text
    assert f" {names} ".replace("-", "\N{MINUS SIGN}") in text


def test_curves_go_through_their_values():
    steps, lines = [999, 499, 249], {"star": [0.0, 0.5, 1.0], "<b>": [1.0, 1.0, 0.25]}
    drawing = curves(steps, lines)
    assert [line.name for line in drawing.lines] == ["star", "<b>"]
    for line, values in zip(drawing.lines, lines.values(), strict=True):
        x, y = np.array(line.points).T
        left_to_right = [CURVES_FRAME.right, CURVES_FRAME.left]
        bottom_to_top = [CURVES_FRAME.bottom, CURVES_FRAME.top]
        np.testing.assert_allclose(x, np.interp(steps, [249, 999], left_to_right))
        np.testing.assert_allclose(y, np.interp(values, [0, 1], bottom_to_top))
    assert [tick.label for tick in drawing.steps] == ["999", "499", "249"]
    np.testing.assert_allclose([tick.at for tick in drawing.steps], x)


def test_the_drawing_of_curves_is_what_was_worked_out():
    steps, found = [999, 499, 249], {"star": [0.0, 0.5, 1.0], "<b>": [1.0, 1.0, 0.25]}
    drawing, journey = curves(steps, found), made_up_journey(steps)
    judged = replace(journey, compared={**journey.compared, "likelihood": found})
    page = render_page("journey.html", EMPTY_PAGE, journey=judged, images=2)
    paths = [path for path in ParsedPage(page).all("path") if "curve" in path.get("class", "")]
    lines = [path for path in paths if path["d"] != "M0 5H28"]  # the others are the legend's
    for path, line in zip(lines, drawing.lines, strict=True):
        points = [tuple(map(float, point.split())) for point in path["d"][1:].split("L")]
        np.testing.assert_allclose(points, line.points, atol=0.01)
    assert len(paths) == 2 * len(lines) and "<b>" not in page
    assert {"star", "<b>"} <= set(ParsedPage(page).texts)
    (drawn,) = [svg for svg in ParsedPage(page).all("svg") if svg["viewbox"] == "0 0 640 270"]
    assert drawn["role"] == "img" and drawn["aria-label"].startswith("How likely a judge finds")


def test_many_curves_can_be_told_apart():
    drawing = curves([9, 4], {f"feature {i}": [-0.5, 2.0] for i in range(24)})
    looks = [(line.colour, line.dashes) for line in drawing.lines]
    assert len(set(looks)) == 24
    assert len({dashes for _, dashes in looks[:4]}) == 4  # where lines cover each other all show
    assert [tick.label for tick in drawing.values] == ["\N{MINUS SIGN}0.5", "0.75", "2"]
    assert {line.points[1][1] for line in drawing.lines} == {CURVES_FRAME.top}


@pytest.mark.parametrize(("count", "labels"), [(1, 1), (10, 10), (11, 6), (50, 10)])
def test_steps_are_labelled_where_there_is_room(count, labels):
    steps = list(range(999, 999 - count, -1))
    assert len(curves(steps, {"a": [0.5] * count}).steps) == labels


def test_bars_of_groups_begin_at_zero_and_show_their_errors():
    scores, errors = [4.0, 1.0, -2.0], [0.5, 1.5, 0.25]
    found = spans(scores, errors)
    low, size = -2.25, 4.5 + 2.25

    def x(value):
        return pytest.approx(100 * (value - low) / size)

    assert [span.zero for span in found] == [x(0)] * 3
    assert [(span.x, span.x + span.width) for span in found] == [
        (x(0), x(4)), (x(0), x(1)), (x(-2), x(0))
    ]  # fmt: skip
    assert [span.error for span in found] == [
        (x(score - error), x(score + error)) for score, error in zip(scores, errors, strict=True)
    ]
    group = Group("an artist", 3, 4.0, 1.0, 0.5, 0.1, ())
    groups = [replace(group, score=score) for score in scores]
    bars = [html.Bar(each, span, []) for each, span in zip(groups, found, strict=True)]
    page = ParsedPage(report(answer(groups=bars, grouped_by="artist")))
    assert len(page.all("path", "error")) == len(page.all("path", "zero")) == 3
    assert len(page.all("rect", "for")) == 2 and len(page.all("rect", "against")) == 1
    assert "the line over each spans its standard error" in page.text
    once = [replace(bar, span=replace(bar.span, error=None)) for bar in bars]
    page = ParsedPage(report(answer(groups=once, grouped_by="artist")))
    assert not page.all("path", "error") and "standard error over draws" not in page.text
