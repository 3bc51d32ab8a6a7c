"""`headwater evaluate lds | concept-lds` on the smallest models, from configuration to table."""

import json

import numpy as np
import pytest
from support.command_line import assert_refused, headwater
from support.tiny import PIXELS

from headwater import Session, load_dataset
from headwater.errors import QueryError
from headwater.evaluation.metrics.lds import lds, predicted_outputs
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.studies.lds import LDSStudy, hold_out, shared_truths
from headwater.evaluation.studies.subset_plan import SubsetPlan
from headwater.scenes.dataset import pictures

MANY = "--held-out 8 --subsets 4 --again 4 --draws 2".split()


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_model):
    """A file that trains the tiny pipeline for three steps."""
    path = tmp_path_factory.mktemp("studies") / "model.json"
    facts = {"base": str(tiny_model), "phases": [{"steps": 3, "batch": 4}]}
    path.write_text(json.dumps(facts))
    return path


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Words that enough captions have; every other image that names one shows it."""
    entries = [
        {
            "concept": word,
            "positives": [f"{p.id}.png" for p in pictures()[:20] if word in p.caption][::2],
        }
        for word in ("style", "background")
    ]
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    path.write_text(json.dumps(entries))
    return path


def test_a_split_loses_nothing(tiny_images):
    data = load_dataset(str(tiny_images))
    trained, held = hold_out(data, 6)
    ids = [sample.id for sample in data.samples]
    assert sorted(s.id for s in [*trained.samples, *held.samples]) == ids and len(held) == 6
    assert [s.id for s in held.samples] == sorted(s.id for s in held.samples)
    row = ids.index(held.samples[2].id)
    assert held.image(2).tobytes() == data.image(row).tobytes()
    assert held.contents[2] == data.contents[row]
    assert (
        hold_out(data, 6)[0].fingerprint
        == trained.fingerprint
        != hold_out(data, 6, 1)[0].fingerprint
    )
    for held_out in (0, 17):
        with pytest.raises(QueryError, match=f"--held-out {held_out} of 20 images: at least 1"):
            hold_out(data, held_out)


def test_lds_from_the_command_line(config, tiny_images, tmp_path):
    out = tmp_path / "out"
    command = ["evaluate", "lds", config, tiny_images, out, *MANY]
    result = headwater(*command, "--methods", "trak,pixel-dot,random")
    assert result.code == 0, result.err
    table = (out / "table.md").read_text()
    assert table.startswith("# LDS: 8 pictures, 4 halves of 12 images") and "noise ceiling" in table
    rows = {row["method"]: row for row in json.loads((out / "results.json").read_text())["rows"]}
    assert list(rows) == ["trak", "pixel-dot", "random", "noise ceiling"]
    written = json.loads((out / "results.json").read_text())
    for name, values in written["values"].items():
        assert np.mean(values) == pytest.approx(rows[name]["LDS"]["mean"])
    assert len(written["values"]["trak"]) == 8 and (out / "lds.png").exists()
    names = {path.stem for path in (out / "outputs").iterdir()}
    halves = {f"half-00{i}{again}" for i in range(4) for again in ("", "-again")}
    assert names == {"full", *halves}
    # again by hand: the scores of pixels are inner products of latents
    plan = SubsetPlan(12, 4, 4)
    true = np.array([
        json.loads((out / "outputs" / f"half-00{i}.json").read_text())["outputs"]["own"]
        for i in range(4)
    ])  # fmt: skip
    denoiser = Session.open(out / "indexes" / "pixels--none").denoiser
    trained, held = hold_out(load_dataset(str(tiny_images)), 8)
    x0 = denoiser.encode_images([held.image(row) for row in range(8)]).flatten(1)
    own = denoiser.encode_images([trained.image(row) for row in range(12)]).flatten(1)
    exact = lds(true, predicted_outputs((x0 @ own.T).double().numpy(), plan.chosen)).mean()
    assert rows["pixel-dot"]["LDS"]["mean"] == pytest.approx(exact, abs=0.1)
    before = {path: path.stat().st_mtime_ns for path in (out / "outputs").iterdir()}
    again = headwater(*command, "--methods", "random")
    assert again.code == 0 and before == {path: path.stat().st_mtime_ns for path in before}


def test_concept_lds_from_the_command_line(config, tiny_images, truth, tmp_path):
    out = tmp_path / "out"
    result = headwater(
        *["evaluate", "concept-lds", config, tiny_images, truth, out, *MANY, "--held-out", 12],
        *["--methods", "concept-trak,random"],
    )
    assert result.code == 0, result.err
    for output in ("loss", "contribution"):
        rows = json.loads((out / output / "results.json").read_text())["rows"]
        assert [row["method"] for row in rows] == [
            "concept-trak",
            "random",
            "the caption names it",
            "noise ceiling",
        ]
        assert rows[0]["above 'the caption names it'"]["low"] <= rows[0]["LDS"]["mean"] + 1
    assert "of the ceiling" in (out / "loss" / "table.md").read_text()
    measured = json.loads((out / "outputs" / "half-000.json").read_text())["outputs"]
    entries, (_, held) = json.loads(truth.read_text()), hold_out(load_dataset(str(tiny_images)), 12)
    for word, positives in ((each["concept"], each["positives"]) for each in entries):
        asked = [s for s in held.samples if s.id in positives]
        assert 3 <= len(asked) == len(measured[f"without {word}"]) < len(measured["own"]) == 12


def test_concepts_are_those_that_pictures_held_out_show_and_name(tiny_images, truth, tmp_path):
    trained, held = hold_out(load_dataset(str(tiny_images)), 12)
    setting = LDSStudy(tmp_path, ModelConfig((Phase(1),)), trained, held, SubsetPlan(8, 2, 0))
    truths, shown = shared_truths(setting, str(truth))
    positives = {each["concept"]: each["positives"] for each in json.loads(truth.read_text())}
    assert [each.concept for each in truths] == list(shown) == ["style", "background"]
    for each in truths:
        assert len(each.shows) == 8
        ids = [held.samples[row].id for row in shown[each.concept]]
        assert ids == [s.id for s in held.samples if s.id in positives[each.concept]]
        assert all(each.concept in held.samples[row].caption for row in shown[each.concept])
    few = LDSStudy(
        tmp_path,
        ModelConfig((Phase(1),)),
        *hold_out(load_dataset(str(tiny_images)), 1),
        SubsetPlan(19),
    )
    with pytest.raises(QueryError, match="is shown and named by 3 of the 1 pictures held out"):
        shared_truths(few, str(truth))


@pytest.mark.parametrize(
    "options, said",
    [
        ("--methods concept-trak-a", "concept-trak-a cannot be asked for a picture: leave it out"),
        (
            "--methods tracin",
            "tracin needs a training's checkpoints: leave it out",
        ),
        ("--methods clip-cosine", "clip-cosine needs a CLIP model, which a study does not have"),
        ("--methods ,", "--methods names none: give names with commas"),
        (
            "--methods trak,journey-trak",
            "journey-trak follows the making of a picture, and held-out ones were not made by",
        ),
        ("--subsets 3", "--subsets 3 must be at least 4"),
        ("--again 3", "--again 3: so few say nothing of noise; give 0, or at least 4"),
        ("--again -1", "--again -1 must be at least 0"),
        ("--jobs 0", "--jobs 0 must be at least 1"),
        ("--seed -1", "--seed -1 must be at least 0"),
        ("--draws 0", "--draws 0 must be at least 1, or auto"),
        ("--damping -1", "--damping -1.0 must be a number from 0 up"),
        ("--held-out 18", "--held-out 18 of 20 images: at least 1, and leave 4 to train on"),
        ("--methods tark", "there is no method 'tark'"),
        ("--parameters nowhere", "--parameters 'nowhere' matches no layer; nearest: "),
        (
            "--methods pixel-dot,random --parameters all",
            "--parameters is of how gradients are made, and no method here makes any: leave it out",
        ),
    ],
)
def test_what_cannot_be_studied(config, tiny_images, tmp_path, options, said):
    command = ["evaluate", "lds", config, tiny_images, tmp_path / "out", *MANY, *options.split()]
    assert_refused(headwater(*command), said)
    assert not (tmp_path / "out").exists()


def test_a_model_without_prompts_has_no_concepts(tiny_images, truth, tmp_path):
    config, out = tmp_path / "model.json", tmp_path / "out"
    config.write_text(json.dumps({"base": "", "network": PIXELS, "phases": [{"steps": 1}]}))
    command = ["evaluate", "concept-lds", config, tiny_images, truth, out, *MANY]
    result = headwater(*command, "--held-out", 12, "--methods", "concept-trak")
    assert_refused(result, "the configuration's model reads no prompts")


def test_a_model_without_prompts_is_asked_over_all_its_parameters(tiny_images, tmp_path):
    config, out = tmp_path / "model.json", tmp_path / "out"
    config.write_text(json.dumps({"base": "", "network": PIXELS, "phases": [{"steps": 1}]}))
    command = ["evaluate", "lds", config, tiny_images, out, *MANY, "--methods", "trak,random"]
    refused = headwater(*command, "--parameters", "attn2")
    assert_refused(refused, "--parameters 'attn2' matches no layer")
    refused = headwater(*command[:-1], "concept-trak", "--parameters", "all")
    assert_refused(refused, "this model reads none: give --method concept-trak-unguided")
    assert not out.exists()
    result = headwater(*command, "--parameters", "all", "--again", 0)
    assert result.code == 0, result.err
    (session,) = (Session.open(path) for path in (out / "indexes").iterdir())
    assert session.index.recipe.parameters == "all"
    assert session.index.recipe.layers == tuple(session.denoiser.layers("all"))


def test_a_configuration_that_is_none(tiny_images, tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    command = ["evaluate", "lds", tmp_path / "bad.json", tiny_images, tmp_path / "out", *MANY]
    result = headwater(*command)
    assert_refused(result, "bad.json is no configuration of a model: it lacks 'phases'")
