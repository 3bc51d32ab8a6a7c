"""`headwater evaluate counterfactual` on the smallest models, from configuration to tables."""

import json

import numpy as np
import pytest
import torch
from support.command_line import assert_refused, headwater
from support.tiny_clip import tiny_clip

from headwater import Denoiser
from headwater.evaluation.counterfactual import compare, regenerate
from headwater.evaluation.counterfactual.regenerate import make_pictures, prompts_for
from headwater.evaluation.ground_truth.classifiers import ScenesClassifier
from headwater.evaluation.retraining.outputs import SamplerOptions
from headwater.scenes.dataset import pictures


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_model):
    """A file that trains the tiny pipeline for three steps."""
    path = tmp_path_factory.mktemp("counterfactual") / "model.json"
    path.write_text(json.dumps({"base": str(tiny_model), "phases": [{"steps": 3, "batch": 4}]}))
    return path


@pytest.fixture
def four_steps(monkeypatch):
    """Pictures of four steps, not twenty."""
    for module in (regenerate, compare):
        monkeypatch.setattr(module, "SAMPLER", SamplerOptions(4))


def command(config, images, truth, out, *options):
    given = ["--concepts", "blue,fish,blue", "--remove", "3", "--samples", "3", "--draws", "2"]
    return ["evaluate", "counterfactual", config, images, truth, out, *given, *options]


WORDS, METHODS = ("blue", "fish"), ("caption", "truth", "random")
LABELS = ("the full model", "another seed", "the caption names it", "the image shows it", "random")


@pytest.fixture(scope="module")
def done(config, tiny_images, tmp_path_factory):
    """The command without its methods, and the folder that it has written."""
    out = tmp_path_factory.mktemp("done") / "out"
    given = command(config, tiny_images, "scenes", out, "--window", "999:499, 499:0")
    with pytest.MonkeyPatch.context() as patch:
        for module in (regenerate, compare):
            patch.setattr(module, "SAMPLER", SamplerOptions(4))
        result = headwater(*given, "--methods", ",".join(METHODS))
    assert result.code == 0, result.err
    return given, out


def read_rows(folder):
    return json.loads((folder / "results.json").read_text())["rows"]


@pytest.fixture(scope="module")
def rows(done):
    return {(row["method"], row["removed"]): row for row in read_rows(done[1])}


def read_outputs(out, name):
    (path,) = (out / "outputs").glob(f"{name}-*.json")
    return json.loads(path.read_text())["outputs"]


def test_a_model_for_each_removal(done, rows):
    _, out = done
    written = {path.stem for path in (out / "outputs").iterdir()}
    removed = {f"{word}-{method}-0003-seed0" for word in WORDS for method in METHODS}
    shown = {path.stem for path in (out / "shown").iterdir()}
    assert {name.rpartition("-")[0] for name in shown} == removed
    assert written == {"full", "full-again", *shown}
    assert list(rows) == [(label, 0 if label in LABELS[:2] else 3) for label in LABELS]


def test_tables_and_plots_of_whole_pictures_and_of_windows(done, rows):
    _, out = done
    assert {path.name for path in (out / "sheets").iterdir()} == {"blue.png", "fish.png"}
    plots = {"drop.png", "others.png", "l2.png", "frechet.png"}
    assert {path.name for path in out.glob("*.png")} == plots | {"gone.png"}
    assert {path.name for path in (out / "windows").glob("*.png")} == plots
    for folder in (out, out / "windows"):
        assert "against baselines" in (folder / "compared" / "table.md").read_text()
    assert "by how much was gone" in (out / "gone" / "table.md").read_text()
    in_windows = read_rows(out / "windows")
    assert [(row["window"], row["method"]) for row in in_windows] == [
        (window, method) for window in ("999:499", "499:0") for method, _ in rows
    ]
    one_by_one = read_rows(out / "windows" / "concepts")
    assert [(r["concept"], r["window"], r["method"]) for r in one_by_one] == [
        (word, row["window"], row["method"]) for word in WORDS for row in in_windows
    ]
    page = (out / "windows" / "concepts" / "table.md").read_text()
    assert "swapped for some steps, one by one" in page
    assert "- window: the timesteps A >= t > B" in (out / "windows" / "table.md").read_text()


def test_rates_are_those_of_the_full_model_itself(done, rows, four_steps):
    full = Denoiser.load(done[1] / "models" / "full")
    classifier, captions = ScenesClassifier(), [p.caption for p in pictures()[:20]]
    rates = []
    for word in WORDS:
        made = make_pictures(full, prompts_for(word, "", captions, 3))
        rates.append(classifier(made[:3] / 255).rates[:, classifier.concepts.index(word)].mean())
    assert rows["the full model", 0]["rate"]["mean"] == pytest.approx(np.mean(rates), abs=1e-5)


def test_rows_are_means_of_what_was_measured(done, rows):
    _, out = done
    blue = read_outputs(out, "blue-random-0003-seed0")
    stated = next(
        row
        for row in read_rows(out / "concepts")
        if (row["concept"], row["method"], row["removed"]) == ("blue", "random", 3)
    )
    assert stated["rate"]["mean"] == pytest.approx(np.mean(blue["rate"]))
    assert stated["l2"]["mean"] == pytest.approx(np.mean(blue["l2"])) and len(blue["l2"]) == 3
    assert stated["rate"] != rows["random", 3]["rate"]
    assert len(blue["rate in 999:499"]) == 3 and blue["l2 in 999:499"] != blue["l2"]


def test_shares_of_what_was_taken_out(done, rows):
    _, out = done
    drawn = pictures()[:20]
    taught = [sum(p.shows(word) and word in p.caption for p in drawn) for word in WORDS]
    gone = rows["the caption names it", 3]["of all that show and name it"]
    assert gone == pytest.approx(np.mean([min(1, 3 / count) for count in taught]))
    ceiling = rows["the image shows it", 3]
    show = [sum(p.shows(word) for p in drawn) for word in WORDS]
    assert ceiling["of them show it"] == pytest.approx(np.mean([min(n, 3) / 3 for n in show]))
    assert ceiling["of all that show it"] == pytest.approx(np.mean([min(1, 3 / n) for n in show]))
    for name in ("the caption names it", "the image shows it"):
        assert f"- {name}: images that it is true of, by chance" in (out / "table.md").read_text()


def test_more_is_added_and_nothing_trained_twice(done, four_steps):
    """More methods, concepts and removals; and a note where models are of several devices."""
    given, out = done
    before = {path: path.stat().st_mtime_ns for path in (out / "outputs").iterdir()}
    one = ["--concepts", "blue", "--remove", "3,8"]
    more = headwater(
        *[*given, "--methods", "concept-trak,caption,random", "--parameters", "all", *one]
    )
    assert more.code == 0 and before == {path: path.stat().st_mtime_ns for path in before}
    assert len(list((out / "outputs").iterdir())) == len(before) + 4
    assert "- gradients of concept-trak are of all" in (out / "table.md").read_text()

    assert "trained on" not in (out / "table.md").read_text()
    (path,) = (out / "outputs").glob("blue-random-0003-seed0-*.json")
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"trained on": "another device"}))
    assert headwater(*given, "--methods", "caption,random", *one).code == 0
    here = f"CPU, torch {torch.__version__}"
    for table in ("", "gone", "compared"):
        page = (out / table / "table.md").read_text()
        assert f"- trained on: 3 models: {here}; 1 models: another device" in page


def test_counterfactual_judged_by_clip(config, tiny_images, tmp_path, four_steps):
    entries = [
        {"concept": word, "positives": [f"{p.id}.png" for p in pictures()[:20] if p.shows(word)]}
        for word in ("blue", "fish", "moon")
    ]
    truth, clip = tmp_path / "truth.json", tiny_clip(tmp_path / "clip")
    truth.write_text(json.dumps(entries))
    given = command(config, tiny_images, truth, tmp_path / "out", "--concepts", "blue")
    result = headwater(
        *given, "--clip", clip, "--methods", "clip-cosine,random", "--remove", "5", "--seeds", 2
    )
    assert result.code == 0, result.err
    page = (tmp_path / "out" / "table.md").read_text()
    assert page.startswith("# Counterfactual: “blue”, 20 images") and "over prompts" in page
    assert "CLIP's image embedding" in page and "the mean of 2 models" in page
    names = {path.stem.rpartition("-")[0] for path in (tmp_path / "out" / "outputs").iterdir()}
    assert {"blue-clip-cosine-0005-seed0", "blue-clip-cosine-0005-seed1"} < names
    assert_refused(headwater(*given), "nothing here can judge pictures for")


@pytest.mark.parametrize(
    "options, said",
    [
        ("--methods clip-cosine", "clip-cosine needs a CLIP model: give its folder as --clip"),
        ("--methods tark", "there is no method 'tark'; there are: caption, truth, concept-trak"),
        (
            "--methods caption --clip nowhere",
            "--clip: neither the judge nor a method here needs it: leave it out",
        ),
        ("--remove 17", "--remove 17 of 20 images: leave at least 4 to train on"),
        ("--remove 3,x", "--remove '3,x' must be numbers from 1 up, with commas"),
        ("--samples 0", "--samples 0 must be at least 1"),
        ("--concepts blue,puce", "--concepts: scenes has no 'puce' to ask for; it has red, "),
        ("--parameters nowhere", "--parameters 'nowhere' matches no layer; nearest: "),
        (
            "--methods caption,random --parameters all",
            "--parameters is of how gradients are made, and no method here makes any: leave it out",
        ),
        ("--window 9", "--window '9' must be two timesteps"),
        ("--window 300:400", "--window 300:400 holds no step: pictures are made at 999, 949, "),
    ],
)
def test_what_cannot_be_taken_out(config, tiny_images, tmp_path, options, said):
    result = headwater(*command(config, tiny_images, "scenes", tmp_path / "out", *options.split()))
    lines = result.err.splitlines()
    warned = [line for line in lines if line.startswith("warning: ")]
    assert result.code == 2 and len(lines) == len(warned) + 1 and said in lines[-1]
    assert not (tmp_path / "out").exists()


def test_a_model_that_reads_no_prompts(tiny_images, tmp_path):
    path = tmp_path / "model.json"
    unet = {
        "sample_size": 8,
        "block_out_channels": [8],
        "norm_num_groups": 4,
        "layers_per_block": 1,
    }
    unet |= {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    path.write_text(json.dumps({"base": "", "network": unet, "phases": [{"steps": 1}]}))
    result = headwater(*command(path, tiny_images, "scenes", tmp_path / "out"))
    assert result.code == 2 and "the configuration's model reads no prompts" in result.err
