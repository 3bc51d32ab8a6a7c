"""What if these images were out? What is left out of a ranking is out of all that shows it."""

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.page import FRESH, after, done

from headwater.errors import QueryError
from headwater.viewer import beside
from headwater.viewer import desk as doing
from headwater.viewer.answers import stages
from headwater.viewer.form import MOST_LEFT_OUT, form_of

LEFT = "Left out by whoever asked:"


@pytest.fixture(scope="module")
def first(star):
    """The highest of the ranking."""
    return star["found"].answers[0].top(1)[0]


@pytest.fixture(scope="module")
def without(sessions, star, first):
    """What the page holds once that is left out, with the answer in groups."""
    desk = doing.Desk(sessions, Path())
    out = after(star, beside.leave_out(desk, star | {"row": first.row, "row_of": "all"}))
    return after(out, doing.again(desk, out | {"group_by": "folder"}))


def test_what_is_left_out_is_out_and_estimated(desk, star, sessions, first, without):
    assert f'data-row="{first.row}"' not in without["answers"]
    assert without["left_out"] == [first.id]
    second = star["found"].answers[0].top(2)[1]
    shown = done(beside.left_out(desk, star | {"left_out": [first.id, second.id]}))
    (answer,) = shown["found"].answers
    assert answer.left_out.images == 2
    assert answer.left_out.score == pytest.approx(first.score + second.score, rel=1e-5)
    assert f"{LEFT}</b> 2 images" in shown["answers"] and "an estimate" in shown["answers"]
    every = [sample.id for sample in sessions["all"].index.samples]
    with pytest.raises(QueryError, match="every image is left out: put one back"):
        done(beside.left_out(desk, star | {"left_out": every}))


def test_it_is_not_shown_where_all_others_are(desk, star, first, without):
    """Not even below them, where what does not compete stands."""
    every = done(doing.again(desk, without | {"shown": 12}))
    assert f'data-row="{first.row}"' not in every["answers"]
    for side in (every["found"].ends[0].top, every["found"].ends[0].bottom):
        assert len(side) == 11 - sum(len(each.near_copies) for each in side)


def test_details_have_the_ranks_of_the_others(desk, star, first, without):
    second = without["found"].answers[0].top(1)[0]
    assert "<td>1 of 11</td>" in done(beside.look(desk, without, second.row))["detail"]
    assert "<td>not in the ranking</td>" in done(beside.look(desk, without, first.row))["detail"]


def test_groups_count_the_others(star, desk, first, without):
    whole = done(doing.again(desk, star | {"group_by": "folder"}))["found"].answers[0]
    left = without["found"].answers[0]
    assert sum(group.images for group in whole.groups) == 12
    assert sum(group.images for group in left.groups) == 11
    assert all(first.row not in group.strongest for group in left.groups)


def test_what_is_kept_says_so(desk, first, without):
    written = map(Path, done(beside.keep(desk, without))["files"]["value"])
    files = {file.name: file for file in written}
    said = json.loads(files["star.json"].read_text())
    assert first.id not in [entry["id"] for entry in said["top"] + said["bottom"]]
    assert said["left out"]["ids"] == said["provenance"]["left out"] == [first.id]
    assert said["left out"]["score"] == pytest.approx(first.score)
    assert said["left out"]["says"].startswith("To first order")
    report = files["report.html"].read_text()
    assert f"{LEFT}</b> 1 image" in report and "To first order" in report
    scores = pq.read_table(files["scores.parquet"]).to_pandas().set_index("id")
    assert not scores.loc[first.id, "candidate"] and scores.loc[first.id, "rank"] == 12


def test_a_link_brings_it_back(desk, first, without):
    pairs = parse_qsl(without["link"][1:])
    assert ("left_out", first.id) in pairs
    opened = after(FRESH, doing.opened(desk, {"index": "all"}, pairs))
    assert opened["left_out"] == [first.id] and opened["found"].form.left_out == (first.id,)
    assert opened["answers"].count(LEFT) == 1 and f'data-row="{first.row}"' not in opened["answers"]
    with pytest.raises(QueryError, match=r"'gone\.png' is no image of this index"):
        done(doing.opened(desk, {"index": "all"}, [*pairs, ("left_out", "gone.png")]))
    form = replace(form_of(FRESH), left_out=("a.png",) * (MOST_LEFT_OUT + 1))
    with pytest.raises(QueryError, match="101 images are more than 100 to leave out"):
        done(doing.asked(desk, form))


def test_another_index_is_asked_without_it_too(desk, first, without):
    compared = done(beside.compare(desk, without))["compared"]
    assert compared.count(LEFT) == 1 + (first.row < 10)  # which the other may not have
    assert f"Training image {first.id}" not in compared.replace("&lt;", "<").replace("&gt;", ">")


def test_a_question_asked_anew_has_all_images(desk, without):
    again = done(doing.ask(desk, without))
    assert again["found"].form.left_out == () and LEFT not in again["answers"]


def test_a_journey_is_without_it_and_goes_when_others_are_left_out(desk, sessions, first):
    values = FRESH | {"index": "journeys", "left_out": [first.id]}
    walked = after(values, beside.journey(desk, values))
    assert f"{LEFT}</b> 1 image" in walked["journey"]
    assert all(len(step.answer.competing) == 11 for step in walked["steps"])
    asked = after(
        walked, doing.ask(desk, walked | {"method": "trak", "whole": True, "concepts": []})
    )
    put_back = after(asked, beside.left_out(desk, asked | {"left_out": []}))
    assert put_back["journey"] == "" and put_back["steps"] is None


def test_what_an_image_taught_is_told_beside_the_others(desk, first, without):
    row = without["found"].answers[0].top(1)[0].row
    assert "of 11" in done(beside.taught(desk, without | {"row": row, "row_of": "all"}))["taught"]
    own = done(beside.taught(desk, without | {"row": first.row, "row_of": "all"}))["taught"]
    assert "of 12" in own


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_of_an_early_answer_it_is_estimated_by_the_method_that_is_shown(usual, tmp_path):
    form = replace(form_of(FRESH), index="usual", ask="contribution", draws=8)
    early = next(stages.ask(usual, form))
    entry = early.answers[0].top(1)[0]
    desk = doing.Desk({"usual": usual}, tmp_path)
    left = done(beside.left_out(desk, FRESH | {"found": early, "left_out": [entry.id]}))["found"]
    assert left.answers[0].method == early.answers[0].method == "ekfac"
    assert left.answers[0].left_out.score == pytest.approx(entry.score, rel=1e-5)
    np.testing.assert_array_equal(left.answers[0].scores, early.answers[0].scores)
    assert not left.last


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_an_image_of_the_first_answer_is_left_out_of_the_whole(usual, tmp_path):
    """Whose ranking is another: it is the image that was clicked, not its place."""
    desk = doing.Desk({"usual": usual}, tmp_path)
    asked = FRESH | {"index": "usual", "ask_for": "contribution", "draws": 8}
    first, whole = (update for update in doing.ask(desk, asked) if "found" in update)
    early, late = (update["found"].answers[0].top(12) for update in (first, whole))
    place = next(n for n, (a, b) in enumerate(zip(early, late, strict=True)) if a.row != b.row)
    clicked, other = early[place], late[place]
    seen = done(beside.look(desk, asked | first, clicked.row))
    now = asked | whole | {"row": seen["row"], "row_of": seen["row_of"]}
    left = done(beside.leave_out(desk, now))
    assert left["found"].form.left_out == (clicked.id,) and left["found"].last
    assert f'data-row="{clicked.row}"' not in left["answers"]
    # what was clicked meanwhile goes on from that, whatever the browser held at the click
    both = done(beside.leave_out(desk, now | left | {"row": other.row, "left_out": []}))
    assert both["found"].form.left_out == (clicked.id, other.id)
    held = now | both | {"left_out": []}
    assert done(doing.again(desk, held))["found"].form.left_out == (clicked.id, other.id)
    assert done(doing.more(desk, held))["found"].form.left_out == (clicked.id, other.id)


def test_an_image_of_another_index_is_not_left_out(desk, star):
    """Its details may come after the question to this one was asked."""
    looked = done(beside.look(desk, FRESH | {"index": "fewer"}, 3))
    assert looked["row_of"] == "fewer"
    values = star | {"row": looked["row"], "row_of": looked["row_of"]}
    with pytest.raises(QueryError, match="that image is of another index than the answer: click"):
        done(beside.leave_out(desk, values))
