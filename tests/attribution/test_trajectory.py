"""A journey is the same question at every step, and what compares the steps is right."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.stats import spearmanr
from support.command_line import assert_refused, headwater

from headwater import Denoiser, Session, build_index, load_dataset
from headwater.attribution.answer.bootstrap import correlations
from headwater.attribution.trajectory import aims, likelihoods, overlaps
from headwater.errors import MethodError, QueryError
from headwater.queries import image as image_module
from headwater.queries.image import Image
from headwater.report.journeys.trajectory import write_journey

PROMPT = "a red star in hatched style"
FEW = {"timesteps": 4, "dim": 64}
PASSED = [999, 739, 499, 239]  # the nearest to the index's 249, 499, 749, 999
ASK = Image(PROMPT, draws=3, seed=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, tiny_images):
    folder, denoiser = tmp_path_factory.mktemp("journey"), Denoiser.load(tiny_model)
    data = load_dataset(tiny_images).first(9)
    for method in ("trak", "concept-trak"):
        build_index(denoiser, data, folder / method, method=method, self_check=False, **FEW)
    return folder


@pytest.fixture(scope="module")
def session(folder) -> Session:
    return Session.open(folder / "trak")


# --- the pure part ------------------------------------------------------------------------------


def test_correlations_are_spearmans():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 30))
    scores[1] = np.round(scores[1])  # ties
    scores[2] = -(scores[0] ** 3)  # the same order backwards
    exact = spearmanr(scores, axis=1).statistic
    np.testing.assert_allclose(correlations(scores), exact, atol=1e-12)
    assert correlations(scores)[0, 2] == pytest.approx(-1)


def test_equal_scores_correlate_with_nothing():
    scores = np.stack([np.ones(5), np.arange(5.0)])
    np.testing.assert_allclose(correlations(scores), [[0, 0], [0, 1]], atol=1e-12)


@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("count", [1, 4, 50])
def test_overlaps_are_shares_of_sets(count, lowest):
    scores = np.random.default_rng(1).normal(size=(3, 20))
    tops = [
        set(sorted(range(20), key=lambda i: row[i], reverse=not lowest)[:count]) for row in scores
    ]
    exact = [[len(a & b) / len(a) for b in tops] for a in tops]
    np.testing.assert_allclose(overlaps(-scores if lowest else scores, count), exact)


# --- the question -------------------------------------------------------------------------------


def test_a_journey_is_the_question_at_every_step(session, tmp_path, monkeypatch):
    """And its picture is drawn once."""
    drawn, draw = [], image_module.draw
    monkeypatch.setattr(image_module, "draw", lambda *args: drawn.append(1) or draw(*args))
    path = shutil.copytree(session.index.path, tmp_path / "index")
    shutil.rmtree(path / "queries", ignore_errors=True)
    fresh = Session.open(path, denoiser=session.denoiser)
    found = fresh.attribute_steps(ASK)
    assert len(drawn) == 1
    assert [each.query.step for each in found] == PASSED
    assert len(found) == 4 and {each.method for each in found} == {"journey-trak"}
    for each in found:
        single = session.attribute(each.query, method="journey-trak")
        np.testing.assert_allclose(each.scores, single.scores, rtol=1e-5, atol=1e-5)
    assert len({each.scores.tobytes() for each in found}) == 4


def test_steps_that_the_making_does_not_pass_give_way_to_the_nearest(session):
    found = session.attribute_steps(Image(PROMPT, draws=1, steps=3))  # passes 332, 665, 999
    assert [each.query.step for each in found] == [999, 665, 332]


def test_likelihoods_are_of_what_each_step_aimed_at(session):
    found = session.attribute_steps(ASK)
    x0hats = session.picture(ASK).x0hats

    def brightness(images):
        assert all(isinstance(image, Pillow.Image) for image in images)
        return {"bright": np.array([np.asarray(i).mean() / 255 for i in images]), "half": [0.5] * 4}

    exact = [
        np.asarray(session.denoiser.decode(x0hats[t])[0]).mean() / 255
        for t, _ in aims(session, found)
    ]
    measured = likelihoods(session, found, brightness)
    assert measured == {"bright": pytest.approx(exact), "half": [0.5] * 4}
    assert len(set(exact)) > 1


def fails(images):
    raise RuntimeError("no eyes\nat all")


@pytest.mark.parametrize(
    "judge, said",
    [
        (fails, "the judge fails on 4 pictures: RuntimeError: no eyes$"),
        (lambda images: np.ones((4, 2)), "must return a dict, .* not array"),
        (lambda images: {}, "must return a dict, .* not {}"),
        (lambda images: {"a": [1.0]}, r"'a' a finite number for each of 4 pictures, .* \[1.0\]"),
        (lambda images: {"a": [1, 1, 1, float("nan")]}, "'a' a finite number for each"),
        (lambda images: {"a": 0.5}, "'a' a finite number for each of 4 pictures, not 0.5"),
    ],
)
def test_judges_that_do_not_judge(session, tmp_path, judge, said):
    with pytest.raises(QueryError, match=said) as caught:
        write_journey(session, ASK, session.attribute_steps(ASK), tmp_path / "out", 3, judge)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_what_has_no_journey_is_refused(session, folder, tiny_images):
    file = next(tiny_images.glob("*.png"))
    with pytest.raises(QueryError, match=r"--journey is of the making .* --prompt and --seed"):
        session.attribute_steps(Image(file=file))
    with pytest.raises(QueryError, match="--journey is of every step: leave --step out"):
        session.attribute_steps(Image(PROMPT, step=999))
    with pytest.raises(MethodError, match=r"trak cannot be asked for every step .* journey-trak"):
        session.attribute_steps(ASK, method="trak")
    other = Session.open(folder / "concept-trak", denoiser=session.denoiser)
    with pytest.raises(MethodError, match="build one for journey-trak"):
        other.attribute_steps(ASK)
    with pytest.raises(MethodError, match="build one with `--method journey-trak`"):
        other.attribute_steps(ASK, method="journey-trak")


# --- what is written ----------------------------------------------------------------------------


def test_the_command(session, tmp_path):
    ask = ("image", session.index.path, "--prompt", PROMPT, "--seed", 2, "--draws", 3, "--journey")
    result = headwater(*ask, "--out", tmp_path / "a", "--json")
    assert result.code == 0 and result.out.count("\n") == 1
    answer = json.loads(result.out)
    assert answer["seed"] == 2 and answer["method"] == "journey-trak"
    assert answer == json.loads((tmp_path / "a/journey.json").read_text())

    shown = headwater(*ask, "--out", tmp_path / "b")
    lines = shown.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80 and lines[-1] == f"Report: {tmp_path / 'b/report.html'}"
    rows = [line.split() for line in lines[5:9]]
    assert [row[0] for row in rows] == list(map(str, PASSED))
    assert [row[4] for row in rows] == [step["top"][0]["id"] for step in answer["steps"]]
    between = [f"{answer['correlation'][i][i - 1]:.2f}" for i in (1, 2, 3)]
    assert [row[2] for row in rows] == ["-", *between]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["{file}"], "--journey is of the making of a picture, and a file"),
        (["--prompt", PROMPT, "--step", "499"], "--journey is of every step: leave --step out"),
        (["--prompt", PROMPT, "--method", "d-trak"], "d-trak cannot be asked for every step"),
        (["--prompt", PROMPT, "--top", "0"], "--top 0 must be at least 1"),
        ([], "give a picture: a file, or --prompt"),
    ],
)
def test_refused(session, tmp_path, tiny_images, options, said):
    file = next(tiny_images.glob("*.png"))
    given = [option.format(file=file) for option in options]
    out = tmp_path / "out"
    assert_refused(headwater("image", session.index.path, *given, "--journey", "--out", out), said)
    assert not out.exists()
