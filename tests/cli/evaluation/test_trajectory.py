"""`headwater evaluate journey`: step compared with step and seed with seed, over prompts."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp
from support.command_line import assert_refused, headwater

from headwater import Denoiser, Session, build_index, load_dataset
from headwater.errors import QueryError
from headwater.evaluation.ground_truth.classifiers import reader_named, scenes_reader
from headwater.evaluation.studies import trajectory
from headwater.evaluation.studies.trajectory import (
    CORRELATION,
    OPPOSED,
    TOPS,
    Journeys,
    TrajectoryOptions,
    mean_by_distance,
)
from headwater.queries.image import Image
from headwater.scenes.dataset import pictures

STEPS = (999, 739, 499, 239)  # that pictures of 50 steps pass, nearest to the index's
PROMPTS = ["a red star in hatched style", "a fish on a wavy background", "a moon"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, tiny_images):
    """An index that serves journey-trak."""
    folder = tmp_path_factory.mktemp("journeys") / "index"
    data = load_dataset(tiny_images).first(9)
    small = {"method": "trak", "timesteps": 4, "dim": 64, "self_check": False}
    build_index(Denoiser.load(tiny_model), data, folder, **small)
    return folder


@pytest.fixture(scope="module")
def session(folder) -> Session:
    return Session.open(folder)


# --- comparisons ----------------------------------------------------------------------------------


def test_pairs_of_steps_by_how_far_they_lie_apart():
    compared = np.random.default_rng(0).normal(size=(5, 5))
    pairs = [(a, b) for a in range(5) for b in range(5)]
    exact = [np.mean([compared[a, b] for a, b in pairs if abs(a - b) == d]) for d in range(5)]
    np.testing.assert_allclose(mean_by_distance(compared), exact)


def some(prompt: str, seed: int, likely=()) -> Journeys:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(2, 4, 30)).cumsum(1)  # neighbours are alike
    return Journeys(prompt, STEPS, scores, rng.random((2, 4)), dict(likely))


def test_rows_by_distance():
    found = [some("one", 0), some("two", 1), some("three", 2)]
    rows = trajectory.distance_rows(found, top=5)
    assert [row["steps apart"] for row in rows] == [0, 1, 2, 3]
    assert [row["timesteps apart"] for row in rows] == [0, 253, 507, 760]
    of_prompts = []
    for one in found:
        pairs = [(s[a], s[a + 1]) for s in one.scores for a in range(3)]
        tops = [set(np.argsort(-x)[:5]) & set(np.argsort(-y)[:5]) for x, y in pairs]
        both = [(np.argsort(-x)[:5], np.argsort(y)[:5]) for x, y in pairs]
        both += [(np.argsort(-y)[:5], np.argsort(x)[:5]) for x, y in pairs]
        of_prompts.append([
            np.mean([spearmanr(x, y).statistic for x, y in pairs]),
            np.mean([len(top) / 5 for top in tops]),
            np.mean([len(set(high) & set(low)) / 5 for high, low in both]),
        ])  # fmt: skip
    exact = np.array(of_prompts)
    for column, name in enumerate((CORRELATION, TOPS, OPPOSED)):
        assert rows[1][name].mean == pytest.approx(exact[:, column].mean())
        assert rows[1][name].n == 3
        ends = ttest_1samp(exact[:, column], 0).confidence_interval(0.95)
        assert rows[1][name][1:3] == pytest.approx(tuple(ends), rel=1e-3)
    assert rows[0][CORRELATION].mean == pytest.approx(1) and rows[0][TOPS].mean == 1
    assert rows[0][OPPOSED].mean == 0


def test_rows_by_step():
    half = np.array([0.25, 0.5, 0.75, 1.0])
    found = [
        some("one", 0, {"colour": half}),
        some("two", 1, {"colour": half - 0.25, "style": half}),
    ]
    rows = trajectory.step_rows(found)
    assert [row["timestep"] for row in rows] == list(STEPS)
    assert [row["colour"].mean for row in rows] == pytest.approx(half - 0.125)
    assert [row["style"] for row in rows] == half.tolist()  # of one prompt
    exact = [spearmanr(one.scores[0, 2], one.scores[1, 2]).statistic for one in found]
    assert rows[2]["other seeds"].mean == pytest.approx(np.mean(exact))
    halves = np.mean([one.halves[:, 2] for one in found])
    assert rows[2]["other draws"].mean == pytest.approx(halves)
    single = Journeys("one", STEPS, found[0].scores[:1], np.full((1, 4), np.nan), {})
    assert trajectory.step_rows([single])[0] == {
        "timestep": 999, "other seeds": None, "other draws": None,
    }  # fmt: skip


# --- journeys -------------------------------------------------------------------------------------


def test_journeys_are_those_of_the_session(session):
    found = trajectory.collect_journeys(
        session, PROMPTS[:2], TrajectoryOptions(draws=2, seed=4, seeds=2), scenes_reader
    )
    assert [one.prompt for one in found] == PROMPTS[:2]
    for i, seed in ((0, 5), (1, 6)):  # prompts do not share their seeds
        answers = session.attribute_steps(Image(PROMPTS[i], draws=2, seed=seed))
        exact = np.stack([answer.scores for answer in answers])
        np.testing.assert_allclose(found[i].scores[1 - i], exact, rtol=1e-5, atol=1e-8)
        assert found[i].halves[1 - i, 0] == pytest.approx(answers[0].certainty.halves)
    assert found[0].steps == STEPS
    assert set(found[0].likely) == {"colour", "object", "style"}
    assert set(found[1].likely) == {"object", "background"}
    alone = trajectory.collect_journeys(session, PROMPTS[:1], TrajectoryOptions(draws=1, seeds=1))
    assert np.isnan(alone[0].halves).all() and alone[0].likely == {}


def test_what_the_scenes_judge_looks_for():
    shown = pictures("validation")[0]
    said = scenes_reader(f"a {shown.scene.colour} {shown.scene.object}")([shown.draw()] * 2)
    assert set(said) == {"colour", "object"} and len(said["colour"]) == 2
    assert min(said["colour"] + said["object"]) > 0.5
    other = next(word for word in ("red", "blue") if word != shown.scene.colour)
    assert scenes_reader(f"a {other} thing")([shown.draw()])["colour"][0] < 0.5
    assert scenes_reader("a photograph") is None


def test_prompts(session, tmp_path):
    captions = {sample.caption for sample in session.index.samples}
    drawn = trajectory.choose_prompts(session, None, 4)
    assert set(drawn) < captions and len(set(drawn)) == 4
    assert trajectory.choose_prompts(session, None, 4, seed=1) != drawn
    assert set(trajectory.choose_prompts(session, None, 99)) == captions
    file = tmp_path / "prompts.txt"
    file.write_text("a star\n\n a fish \na star\n")
    assert trajectory.choose_prompts(session, file, 10) == ["a star", "a fish"]


# --- the command ----------------------------------------------------------------------------------


def test_journey_from_the_command_line(folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:2]))
    out = tmp_path / "out"
    given = ["evaluate", "journey", folder, out, "--prompts", tmp_path / "prompts.txt"]
    result = headwater(*given, "--seeds", 2, "--draws", 2, "--judge", "scenes", "--top", 3)
    assert result.code == 0, result.err
    table, steps = (
        json.loads((out / part / "results.json").read_text()) for part in (".", "steps")
    )
    assert (
        (out / "table.md").read_text().startswith("# Journeys: 2 prompts, 2 seeds each, 9 images")
    )
    assert [row["steps apart"] for row in table["rows"]] == [0, 1, 2, 3]
    assert table["chance"] == pytest.approx(1 / 3) and table["prompts"] == PROMPTS[:2]
    assert [row["timestep"] for row in steps["rows"]] == list(STEPS)
    assert {"other seeds", "other draws", "colour", "background"} < set(steps["rows"][0])
    drawn = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert drawn == {"distances.png", "steps/consistency.png", "steps/likelihood.png"}
    assert "by chance 0.333" in (out / "table.md").read_text()


EYES = """
def bright(pictures):
    return {"bright": [picture.convert("L").getpixel((0, 0)) / 255 for picture in pictures]}
"""


def test_a_judge_of_ones_own(folder, tmp_path, monkeypatch):
    (tmp_path / "eyes.py").write_text(EYES)
    monkeypatch.chdir(tmp_path)
    given = [
        "evaluate",
        "journey",
        folder,
        "out",
        "--count",
        2,
        "--seeds",
        1,
        "--draws",
        1,
        "--json",
    ]
    result = headwater(*given, "--judge", "eyes:bright")
    assert result.code == 0, result.err
    assert json.loads(result.out)["evaluation"] == "journey"
    rows = json.loads((tmp_path / "out" / "steps" / "results.json").read_text())["rows"]
    assert all(0 <= row["bright"]["mean"] <= 1 for row in rows)
    assert all(row["bright"]["low"] <= row["bright"]["mean"] for row in rows)
    with pytest.raises(QueryError, match=r"--judge 'eyes:dark': .* has no function 'dark'"):
        reader_named("eyes:dark")


@pytest.mark.parametrize(
    "options, said",
    [
        ("--count 1", "--count 1, of 9 captions: intervals are over prompts, give at least 2"),
        ("--seeds 0", "--seeds 0 must be at least 1"),
        ("--prompts none.txt", "cannot read the prompts 'none.txt'"),
        ("--judge eyes", "--judge 'eyes' must be module:function"),
        ("--top 0", "--top 0 must be at least 1"),
        ("--method trak", "trak"),
    ],
)
def test_what_is_no_journey(folder, tmp_path, options, said):
    result = headwater("evaluate", "journey", folder, tmp_path / "out", *options.split())
    assert_refused(result, said)
