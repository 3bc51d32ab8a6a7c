"""Images taken out, models trained again: which rows, which pictures, what has changed."""

import json
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from support.command_line import assert_refused, headwater
from support.tiny import tiny_pipeline
from support.tiny_clip import tiny_clip
from transformers import CLIPModel, CLIPTokenizer

from headwater import Denoiser, load_dataset
from headwater.errors import ParameterError, QueryError
from headwater.evaluation.counterfactual import effects, regenerate
from headwater.evaluation.counterfactual.compare import Again, compared, mean_over, others_named
from headwater.evaluation.counterfactual.plan import Setting, check, remaining, removals
from headwater.evaluation.counterfactual.regenerate import (
    Asked,
    Window,
    asked,
    kept,
    made,
    read_windows,
    require_step,
    swapped,
)
from headwater.evaluation.counterfactual.study import Outcome, _share
from headwater.evaluation.ground_truth.classifiers import ClipJudge, ScenesJudge, Seen, judge_of
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.ground_truth.oracles import KNOWN, shuffled
from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.outputs import samples
from headwater.models.clip import Clip
from headwater.models.sampling import seeded_noise
from headwater.scenes.classifier import load_judge
from headwater.scenes.dataset import pictures
from headwater.scenes.vocabulary import ATTRIBUTES

# --- which images ---------------------------------------------------------------------------------


def test_the_highest_are_taken_out():
    scores = np.round(np.random.default_rng(0).normal(size=30))  # many ties: the data set's order
    for k in (1, 7, 29):
        gone = sorted(range(30), key=lambda row: (-scores[row], row))[:k]
        assert remaining(scores, k) == tuple(row for row in range(30) if row not in gone)


def test_baselines_take_out_what_is_named_and_what_is_shown():
    shows, names = np.arange(30) % 3 == 0, np.arange(30) % 5 == 0
    truth = Truth("cat", "a cat", shows, np.zeros(30, bool), names, {})
    for name, true_of in {"caption": names, "truth": shows}.items():
        scores, count = shuffled(KNOWN[name].scores([truth]))[0], int(true_of.sum())
        assert remaining(scores, count) == tuple(np.flatnonzero(~true_of))
        left = remaining(scores, count + 3)  # without others too
        assert len(left) == 27 - count and not true_of[list(left)].any()


def test_ambiguous_images_count_neither_way():
    """They are taken out before what surely does not show it, and are in no share."""
    shows, ambiguous = np.arange(30) % 3 == 0, np.arange(30) % 3 == 1
    truth = Truth("cat", "a cat", shows, ambiguous, shows, {})
    scores = shuffled(KNOWN["truth"].scores([truth]))[0]
    assert remaining(scores, 10) == tuple(np.flatnonzero(~shows))
    assert remaining(scores, 20) == tuple(np.flatnonzero(~shows & ~ambiguous))
    assert _share(truth, np.array([0, 1, 2, 4, 5, 7])) == pytest.approx(1 / 3)
    assert _share(truth, np.array([1, 4])) is None


def test_a_model_for_each_removal():
    scores = np.arange(5.0)
    found = removals("A cat", {"random": scores, "caption": -scores}, [1, 3], seeds=2)
    assert list(found) == [("random", 1), ("random", 3), ("caption", 1), ("caption", 3)]
    first, again = found["caption", 3]
    assert first.rows == again.rows == (3, 4) and (first.seed, again.seed) == (0, 1)
    names = [task.name for each in found.values() for task in each]
    assert first.name.startswith("a-cat-caption-0003-seed0-") and len(set(names)) == 8
    other = removals("A cat", {"caption": scores}, [3])["caption", 3][0]
    assert other.rows != first.rows and other.name != first.name
    assert not any(task.kept for each in found.values() for task in each)


# --- which pictures -------------------------------------------------------------------------------

CAPTIONS = ["a red star", "a star", "a fish", "a red fish", "", "starlit", "a star"]


def test_prompts_name_the_concept_or_do_not():
    found = asked("star", "one star", CAPTIONS, 5)
    assert set(found.prompts[:5]) == {"a red star", "a star"} and found.naming == 5
    assert (
        set(found.prompts[5:]) == {"a fish", "a red fish", "starlit"} and len(found.prompts) == 10
    )
    assert set(found.prompts[:2]) == {"a red star", "a star"}  # none twice before all came once
    assert len(set(found.seeds)) == 10
    fewer, other = asked("star", "one star", CAPTIONS, 2), asked("star", "one star", CAPTIONS, 5, 1)
    assert fewer.prompts == found.prompts[:2] + found.prompts[5:7]
    assert fewer.seeds == found.seeds[:2] + found.seeds[5:7]
    assert not set(other.seeds) & set(found.seeds)
    bare = asked("moon", "one moon", ["a star"], 2)
    assert bare.prompts == ("one moon", "one moon", "a star", "a star")
    assert asked("star", "", ["a star"], 2).prompts == ("a star", "a star")


def test_windows():
    (window,) = read_windows("400:300")
    assert [t for t in range(0, 1000, 50) if t in window] == [350, 400]
    assert str(window) == "400:300"
    assert read_windows("400:300, 300:0,400:300") == [window, Window(300, 0)]
    for text in ("400", "a:b", ":", "-1:3", "", ",", "400:300,"):
        with pytest.raises(ParameterError, match="must be two timesteps, as in 400:300"):
            read_windows(text)
    for text in ("300:400", "340:320"):
        with pytest.raises(ParameterError, match="holds no step: pictures are made at 999, 949, "):
            require_step(*read_windows(text), 1000)
    with pytest.raises(ParameterError, match="pictures are made at 99, 94, "):
        require_step(window, 100)
    require_step(window, 1000)


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_model):
    """Two models with the same encoders."""
    other = tiny_pipeline(tmp_path_factory.mktemp("other") / "model", seed=1)
    return Denoiser.load(tiny_model), Denoiser.load(other)


def test_a_model_is_swapped_in_for_a_window_of_steps(two):
    """By diffusers' own sampler, step by step."""
    prompts, shape = ["a red star", "a fish"], (2, *two[0].latent_shape)
    noise = torch.stack([seeded_noise(shape[1:], "evaluation", seed) for seed in (0, 1)])

    def mixed(window):
        return swapped(*two, window, noise, prompts, 4, 3.0)

    same = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(mixed(Window(0, 0)), samples(two[0], prompts, steps=4), **same)
    torch.testing.assert_close(mixed(Window(999, 0)), samples(two[1], prompts, steps=4), **same)

    settings = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    scheduler = DDIMScheduler.from_config(two[0].pipe.scheduler.config, **settings)
    scheduler.set_timesteps(4)
    xt = noise
    for t in scheduler.timesteps.tolist():
        network = two[1 if t in (749, 499) else 0]
        c, empty = (network.encode_captions(texts) for texts in (prompts, ["", ""]))
        with torch.no_grad():
            free, own = (network.network(xt, t, each).sample for each in (empty, c))
        xt = scheduler.step(free + 3 * (own - free), t, xt, eta=0.0).prev_sample
    found = mixed(Window(749, 249))
    torch.testing.assert_close(found, xt, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, mixed(Window(499, 249)), atol=1e-3)


def test_pictures_are_made_once(two, tmp_path, monkeypatch):
    ask = Asked("star", ("a red star", "a fish"), 1, (3, 4))
    path = kept(tmp_path, ask, two[0])
    assert torch.equal(regenerate.read_pictures(path), made(two[0], ask))
    mixed = kept(tmp_path, ask, *two, Window(999, 400))
    others = [kept(tmp_path, each, two[0]) for each in (Asked("star", ask.prompts, 1, (3, 5)),)]
    assert len({path, mixed, *others, kept(tmp_path, ask, two[1])}) == 4
    assert not torch.equal(regenerate.read_pictures(mixed), regenerate.read_pictures(path))
    monkeypatch.setattr(regenerate, "made", None)
    assert kept(tmp_path, ask, two[0]) == path


# --- judges ---------------------------------------------------------------------------------------


def as_numbers(images) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images]) / 255


def test_a_measure_goes_to_other_processes(tmp_path):
    for judge in (ScenesJudge(), ClipJudge("clip", ("star",))):
        ask = Asked("star", ("a star",), 1, (0,))
        measure = Again(ask, judge, tmp_path, tmp_path, tmp_path, (Window(400, 300),))
        assert pickle.loads(pickle.dumps(measure)) == measure


def test_the_judge_of_the_scenes():
    """Against the classifier's own reading."""
    shown = pictures("validation")[:12]
    drawn = as_numbers([picture.draw() for picture in shown])
    judge = judge_of("scenes:unseen", [])
    seen = judge(drawn)
    read = load_judge().read(2 * drawn - 1)
    start = 0
    for attribute, values in ATTRIBUTES.items():
        part = seen.rates[:, start : start + len(values)]
        start += len(values)
        torch.testing.assert_close(part.sum(1), torch.ones(12))
        assert [values[i] for i in part.argmax(1).tolist()] == read[attribute]
    correct = [seen.rates[i, judge.concepts.index(p.scene.object)] for i, p in enumerate(shown)]
    assert torch.stack(correct).mean() > 0.9
    assert seen.features.shape == (12, 2048)
    smaller = judge(torch.nn.functional.interpolate(drawn, (32, 32), mode="area"))
    assert smaller.rates.shape == seen.rates.shape


def test_the_judge_by_clip(tmp_path):
    """Against CLIP's own logits."""
    folder = tiny_clip(tmp_path / "clip")
    words = ("star", "a fish", "moon")
    judge = judge_of("truth.json", words, Clip(folder))
    assert judge == ClipJudge(str(folder), words) and judge.concepts == words
    assert judge.facts()["concepts"] == list(words)
    shown = torch.rand(4, 3, 16, 16)
    model = CLIPModel.from_pretrained(folder)
    tokens = CLIPTokenizer.from_pretrained(folder)(list(words), padding=True, return_tensors="pt")
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    pixels = (shown - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        exact = model(tokens.input_ids, pixels, tokens.attention_mask).logits_per_image.softmax(1)
    seen = judge(shown)
    torch.testing.assert_close(seen.rates, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.features.norm(dim=1), torch.ones(4))
    with pytest.raises(QueryError, match="give the folder of a CLIP model as --clip"):
        judge_of("truth.json", words)
    with pytest.raises(QueryError, match="there is only one: add others"):
        judge_of("truth.json", words[:1], Clip(folder))


# --- what has changed -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reds:
    """A judge that sees the means of red, green and blue."""

    concepts: tuple[str, ...] = ("red", "green", "dark green")
    space: str = "means"
    made: dict = field(default_factory=dict)

    def facts(self):
        return {"judge": "reds"}

    def __call__(self, pictures) -> Seen:
        means = pictures.mean((2, 3))
        return Seen(means, means)


ASK = Asked("red", ("red", "a red and green thing", "a thing", "dark green", "green"), 2, (0,) * 5)


def test_others_are_what_else_a_prompt_names():
    assert others_named(Reds().concepts, ASK).tolist() == [
        [False, False, False],
        [False, True, False],
        [False, False, False],
        [False, True, True],
        [False, True, False],
    ]
    within = others_named(
        ("green", "dark green", "red"), Asked("dark green", ("dark green red",), 1, (0,))
    )
    assert within.tolist() == [[False, False, True]]
    holding = others_named(("green", "dark green"), Asked("green", ("dark green",), 1, (0,)))
    assert holding.tolist() == [[False, False]]


def test_changes_by_hand():
    shape = (2, 5, 3, 4, 4)
    now, before = torch.randint(256, shape, dtype=torch.uint8).unbind()
    found = compared(Reds(), ASK, now, before)
    a, b = (each.double().numpy() / 255 for each in (now, before))
    assert found["rate"] == pytest.approx([a[0, 0].mean(), a[1, 0].mean()], rel=1e-5)
    green, blue = a[:, 1].mean((1, 2)), a[:, 2].mean((1, 2))
    assert found["others"] == pytest.approx(
        [green[1], (green[3] + blue[3]) / 2, green[4]], rel=1e-5
    )
    l2 = [np.sqrt(((a[i] - b[i]) ** 2).sum()) for i in range(5)]
    assert found["l2"] == pytest.approx(l2[:2], rel=1e-5)
    assert found["l2 elsewhere"] == pytest.approx(l2[2:], rel=1e-5)
    # two pictures each: covariances of rank one, d d^T with d half the difference, times two
    x, y = (each[:2].mean((2, 3)) for each in (a, b))
    d, e = (each[0] - each[1] for each in (x, y))
    spread = (d @ d + e @ e - 2 * abs(d @ e)) / 2
    exact = np.square(x.mean(0) - y.mean(0)).sum() + spread
    assert found["frechet"] == pytest.approx([exact], rel=1e-4)
    same = compared(Reds(), ASK, now, now)
    assert same["l2"] == [0, 0] and same["frechet"] == pytest.approx([0], abs=1e-9)


# --- effects --------------------------------------------------------------------------------------


def measured(rate, others, l2=0.0):
    return mean_over([{
        "rate": rate, "others": others, "l2": [l2] * len(rate), "l2 elsewhere": [l2 / 2],
        "frechet": [l2 * 10],
    }])  # fmt: skip


def outcome(full, method, random, other=None, named=0.2):
    others = [0.5, 0.6, 0.7]
    ask = Asked("red", ("red",) * len(full), len(full), tuple(range(len(full))))
    return Outcome(
        ask,
        Path("no file is read"),
        measured(full, others),
        measured(full, others, 0.1),
        {
            ("das", 5): measured(method, other or others, 3.0),
            ("random", 5): measured(random, others),
        },
        {("das", 5): 0.75, ("random", 5): 0.25},
        {("das", 5): 0.5, ("random", 5): 0.1},
        {("das", 5): 0.6, ("random", 5): named},
        {},
    )


def test_effects_of_several_concepts_have_intervals_over_concepts():
    found = [
        outcome([0.9, 0.8], [0.1, 0.2], [0.9, 0.6], [0.4, 0.4, 0.4]),
        outcome([0.6, 1.0], [0.5, 0.5], [0.6, 1.0], named=None),  # no caption names it
    ]
    table = effects.rows(found)
    assert [row["method"] for row in table] == ["the full model", "another seed", "das", "random"]
    full, again, das, random = table
    assert full["rate"].mean == pytest.approx((0.85 + 0.8) / 2) and full["rate"].n == 2
    assert again["drop"][:3] == pytest.approx((0, 0, 0)) and again["l2"].mean == pytest.approx(0.1)
    assert das["drop"].mean == pytest.approx((0.7 + 0.3) / 2)
    half = 12.706 * 0.2  # Student's t with one degree of freedom; drops of 0.3 and 0.7
    assert (das["drop"].low, das["drop"].high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-3)
    assert das["others' drop"].mean == pytest.approx(0.2 / 2)
    assert (das["of them show it"], das["of all that show it"]) == (0.75, 0.5)
    column = "of all that show and name it"
    assert (das[column], random[column], full[column]) == (0.6, 0.2, None)
    assert effects.rows(found[1:])[3][column] is None
    few, most = effects.by_share(found)  # 0.2 of the first concept; 0.6 twice, of das
    assert (few["gone"], few["models"]) == ("0 to 0.25", 1)
    assert few["drop"] == few["least"] == few["most"] == pytest.approx(0.1)
    assert (most["gone"], most["models"]) == ("0.5 to 0.75", 2)
    assert [most[name] for name in ("drop", "least", "most")] == pytest.approx([0.5, 0.3, 0.7])
    assert effects.by_share([outcome([1.0], [0.2], [0.9], named=1.0)])[1]["gone"] == "0.9 to 1"
    assert das["Frechet"].mean == pytest.approx(30)
    assert random["drop"].mean == pytest.approx(0.05)
    (more,) = effects.comparisons(found)
    assert (more["method"], more["more than"], more["removed"]) == ("das", "random", 5)
    assert more["drop"].mean == pytest.approx((0.6 + 0.3) / 2)


def test_effects_of_one_concept_have_intervals_over_prompts():
    found = [outcome([0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.3, 0.2], [0.8, 0.7, 0.6, 0.5])]
    das = effects.rows(found)[2]
    assert das["rate"].mean == pytest.approx(0.35) and das["rate"].low < 0.35 < das["rate"].high
    # rates differ from prompt to prompt, the drop does not: it is paired
    assert das["drop"] == pytest.approx((0.4, 0.4, 0.4, 4)) and das["drop"].n == 4
    assert das["Frechet"] == pytest.approx(30) and not isinstance(das["Frechet"], Interval)
    assert effects.comparisons(found)[0]["drop"].mean == pytest.approx(0.3)
    assert effects.over([np.array([])]) is None


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_model):
    """A file that trains the tiny pipeline for three steps."""
    path = tmp_path_factory.mktemp("counterfactual") / "model.json"
    path.write_text(json.dumps({"base": str(tiny_model), "phases": [{"steps": 3, "batch": 4}]}))
    return path


@pytest.fixture
def four_steps(monkeypatch):
    """Pictures of four steps, not twenty."""
    monkeypatch.setattr(regenerate, "STEPS", 4)


def command(config, images, truth, out, *options):
    given = ["--concepts", "blue,fish,blue", "--remove", "3", "--samples", "3", "--draws", "2"]
    return ["evaluate", "counterfactual", config, images, truth, out, *given, *options]


def test_counterfactual_from_the_command_line(config, tiny_images, tmp_path, four_steps):
    out = tmp_path / "out"
    given = command(config, tiny_images, "scenes", out, "--window", "999:499, 499:0")
    result = headwater(*given, "--methods", "caption,truth,random")
    assert result.code == 0, result.err
    written = {path.stem for path in (out / "outputs").iterdir()}
    removed = {
        f"{concept}-{method}-0003-seed0"
        for concept in ("blue", "fish") for method in ("caption", "truth", "random")
    }  # fmt: skip
    shown = {path.stem for path in (out / "shown").iterdir()}
    assert {name.rpartition("-")[0] for name in shown} == removed
    assert written == {"full", "full-again", *shown}
    results = json.loads((out / "results.json").read_text())
    rows = {(row["method"], row["removed"]): row for row in results["rows"]}
    assert list(rows) == [
        ("the full model", 0), ("another seed", 0),
        ("the caption names it", 3), ("the image shows it", 3), ("random", 3),
    ]  # fmt: skip
    assert {path.name for path in (out / "sheets").iterdir()} == {"blue.png", "fish.png"}
    for folder in (out, out / "windows"):
        assert {f.name for f in folder.glob("*.png")} == {
            "drop.png", "others.png", "l2.png", "frechet.png",
            *(["gone.png"] if folder == out else []),
        }  # fmt: skip
        assert "against baselines" in (folder / "compared" / "table.md").read_text()
    assert "by how much was gone" in (out / "gone" / "table.md").read_text()
    in_windows = json.loads((out / "windows" / "results.json").read_text())
    assert [(r["window"], r["method"]) for r in in_windows["rows"]] == [
        (window, method) for window in ("999:499", "499:0") for method, _ in rows
    ]
    each = json.loads((out / "windows" / "concepts" / "results.json").read_text())["rows"]
    assert [(r["concept"], r["window"], r["method"]) for r in each] == [
        (concept, row["window"], row["method"])
        for concept in ("blue", "fish")
        for row in in_windows["rows"]
    ]
    assert (
        "swapped for some steps, one by one"
        in (out / "windows" / "concepts" / "table.md").read_text()
    )
    assert "- window: the timesteps A >= t > B" in (out / "windows" / "table.md").read_text()

    # again from the full model itself
    full, judge = Denoiser.load(out / "models" / "full"), ScenesJudge()
    seen = [p.caption for p in pictures()[:20]]
    rate = []
    for word in ("blue", "fish"):
        ask = asked(word, "", seen, 3)
        rate.append(judge(made(full, ask)[:3] / 255).rates[:, judge.concepts.index(word)].mean())
    assert rows["the full model", 0]["rate"]["mean"] == pytest.approx(np.mean(rate), abs=1e-5)
    (path,) = (out / "outputs").glob("blue-random-0003-seed0-*.json")
    blue = json.loads(path.read_text())["outputs"]
    stated = next(
        row
        for row in json.loads((out / "concepts" / "results.json").read_text())["rows"]
        if (row["concept"], row["method"], row["removed"]) == ("blue", "random", 3)
    )
    assert stated["rate"]["mean"] == pytest.approx(np.mean(blue["rate"]))
    assert stated["l2"]["mean"] == pytest.approx(np.mean(blue["l2"])) and len(blue["l2"]) == 3
    assert stated["rate"] != rows["random", 3]["rate"]
    taught = [
        sum(p.shows(word) and word in p.caption for p in pictures()[:20])
        for word in ("blue", "fish")
    ]
    gone = rows["the caption names it", 3]["of all that show and name it"]
    assert gone == pytest.approx(np.mean([min(1, 3 / count) for count in taught]))
    ceiling = rows["the image shows it", 3]
    show = [sum(p.shows(word) for p in pictures()[:20]) for word in ("blue", "fish")]
    assert ceiling["of them show it"] == pytest.approx(np.mean([min(n, 3) / 3 for n in show]))
    assert ceiling["of all that show it"] == pytest.approx(np.mean([min(1, 3 / n) for n in show]))
    for name in ("the caption names it", "the image shows it"):
        assert f"- {name}: images that it is true of, by chance" in (out / "table.md").read_text()
    assert len(blue["rate in 999:499"]) == 3 and blue["l2 in 999:499"] != blue["l2"]

    # more methods, concepts and removals train what is missing and nothing else
    before = {path: path.stat().st_mtime_ns for path in (out / "outputs").iterdir()}
    one = ["--concepts", "blue", "--remove", "3,8"]
    more = headwater(
        *[*given, "--methods", "concept-trak,caption,random", "--parameters", "all", *one]
    )
    assert more.code == 0 and before == {path: path.stat().st_mtime_ns for path in before}
    assert len(list((out / "outputs").iterdir())) == len(before) + 4
    assert "- gradients of concept-trak are of all" in (out / "table.md").read_text()

    # the table says so where models were trained on several devices
    assert "trained on" not in (out / "table.md").read_text()
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"trained on": "another device"}))
    assert headwater(*given, "--methods", "caption,random", *one).code == 0
    here = f"CPU, torch {torch.__version__}"
    for table in ("", "gone", "compared"):
        said = (out / table / "table.md").read_text()
        assert f"- trained on: 3 models: {here}; 1 models: another device" in said


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
    path.write_text(json.dumps({"base": "", "unet": unet, "phases": [{"steps": 1}]}))
    result = headwater(*command(path, tiny_images, "scenes", tmp_path / "out"))
    assert result.code == 2 and "the configuration's model reads no prompts" in result.err


def test_concepts_that_would_share_files(tmp_path):
    truths = [Truth(w, w, *[np.array([True, False])] * 3, {}) for w in ("c++", "c")]
    data = load_dataset("scenes").first(20)
    setting = Setting(
        tmp_path, ModelConfig((Phase(1),)), data, truths, ScenesJudge(), ["random"], [3]
    )
    with pytest.raises(QueryError, match=r"c\+\+ and c would share files: a folder for each"):
        check(setting)


@pytest.mark.parametrize("name", ["trak", "pixel-cosine"])
def test_parameters_of_a_method_without_gradients_here(tmp_path, name):
    setting = Setting(
        tmp_path, ModelConfig((Phase(1),)), load_dataset("scenes").first(20), [], ScenesJudge(),
        ("concept-trak", "pixel-cosine"), (3,), parameters={"concept-trak": "all"},
    )  # fmt: skip
    check(setting)
    with pytest.raises(ParameterError, match=f"parameters of {name}, which takes no gradients"):
        check(replace(setting, parameters={name: "all"}))
