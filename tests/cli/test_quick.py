"""`headwater why` and `headwater inspect`, as a new user would try them."""

import json

import pyarrow.parquet as pq
import pytest
from support.command_line import PROMPT, assert_refused, headwater
from support.original_names import save_single_file
from support.tiny import tiny_folder

from headwater import Denoiser

peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("why")


@pytest.fixture(scope="module")
def photos(folder):
    return tiny_folder(folder / "photos", 4)


@pytest.fixture(scope="module")
def lora(folder, tiny_model):
    network = Denoiser.load(tiny_model).network
    wanted = peft.LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False)
    network.add_adapter(wanted)
    network.save_lora_adapter(folder / "lora")
    return folder / "lora"


def asked(folder, *more):
    return headwater("why", *more, "--concept", "star", "--out", folder / "out", "--guidance", 2)


def test_a_prompt_from_nothing_and_again(folder, tiny_model, photos, lora):
    """The index is built once; the second question loads it from where it lies."""
    given = ("--model", tiny_model, "--lora", lora, "--data", photos)
    first = asked(folder, PROMPT, *given)
    assert first.code == 0, first.err
    assert "which is built once" in first.err and "--parameters lora is taken" in first.err
    assert "the picture of" in first.out and "'star' in" in first.out
    assert (folder / "out" / "report.html").exists()
    again = asked(folder, PROMPT, *given)
    assert "built once" not in again.err and again.out == first.out
    (index,) = (folder / "photos.headwater").iterdir()
    assert str(index) in again.err
    as_json = json.loads(asked(folder, PROMPT, *given, "--json").out)
    assert [result["question"] for result in as_json["results"]] == ["image", "contribution"]


def test_a_picture_file(folder, tiny_model, photos):
    file = photos / "train-00000.png"
    given = ("--model", tiny_model, "--data", photos, "--prompt", "a star")
    result = asked(folder, file, *given)
    assert result.code == 0, result.err
    assert "the picture of 'a star'" in result.out


def test_what_why_refuses(folder, tiny_model, photos):
    given = ("--model", tiny_model, "--data", photos)
    assert_refused(asked(folder, "gone.png", *given), "there is no picture 'gone.png'")
    assert_refused(asked(folder, "a fish", *given), "--concept 'star' is not in the prompt")
    assert_refused(asked(folder, PROMPT, *given, "--top", 0), "--top 0 must be at least 1")
    assert_refused(asked(folder, PROMPT, *given, "--dtype", "int8"), "--dtype 'int8' is not one of")
    nowhere = ("--model", folder / "none", "--data", photos)
    result = headwater("why", PROMPT, *nowhere, "--index", folder / "index")
    assert_refused(result, "cannot load the model")
    assert not (folder / "index").exists()


def test_inspect_prints_what_index_would_take(folder, tiny_model, photos, lora):
    result = headwater("inspect", tiny_model, photos, "--lora", lora)
    assert (result.code, result.err) == (0, "")
    facts = dict(line.split("  ", 1) for line in result.out.splitlines())
    assert facts["--parameters lora"].strip().endswith(", taken by default")
    assert facts["images"].strip() == "4" and str(lora) in facts["lora"]
    as_json = json.loads(headwater("inspect", tiny_model, "--json").out)
    assert as_json["family"] == "unet" and "images" not in as_json


def test_inspect_of_other_forms_and_of_none(folder, tiny_model, lora):
    file = save_single_file(Denoiser.load(tiny_model).pipe, folder / "model.safetensors")
    assert "StableDiffusionPipeline" in headwater("inspect", file, "--base", tiny_model).out
    assert_refused(headwater("inspect", folder / "none"), "there is no such file or folder")
    assert_refused(headwater("inspect", tiny_model / "unet"), "it holds a network alone")
    assert_refused(headwater("inspect", lora), "has no model_index.json")


# --- audit ----------------------------------------------------------------------------------------

KINDS = ("--alternatives", "red,blue,green,yellow", "--alternatives", "star,moon,fish,heart")


def test_an_audit_of_images_and_again_of_their_index(folder, tiny_model, tiny_images, monkeypatch):
    monkeypatch.setattr(
        "headwater.attribution.scorers.content.presence.AGREED", 0.0
    )  # a random model sees nothing
    given = ("--model", tiny_model, "--index", folder / "audited", *KINDS)
    first = headwater("audit", tiny_images, *given, "--out", folder / "audit", "--top", 3)
    assert first.code == 0, first.err
    assert "captions that say what the model does not see: " in first.out
    assert all(len(line) <= 80 for line in first.out.splitlines() if str(folder) not in line)
    page = (folder / "audit/report.html").read_text()
    assert "Which captions say what the model does" in page and "content, not influence" in page
    again = headwater("audit", folder / "audited", *KINDS, "--out", folder / "again", "--json")
    assert again.code == 0, again.err
    answer = json.loads(again.out)
    assert sum(answer["counts"].values()) >= len(answer["wrong"]) + len(answer["unsaid"]) > 0
    table = pq.read_table(folder / "again/findings.parquet").to_pylist()
    assert len(table) == sum(answer["counts"].values())
    assert [each["id"] for each in table[: len(answer["wrong"])]] == [
        each["id"] for each in answer["wrong"]
    ]


def test_an_audit_that_cannot_be_made_is_refused_in_a_line(folder, tiny_model, tiny_images, lora):
    assert_refused(headwater("audit", tiny_images), "is no index: give the model")
    index = folder / "small"
    assert headwater("index", tiny_model, tiny_images, index, "--method", "pixel-dot").code == 0
    assert_refused(headwater("audit", index, "--lora", lora), "--lora goes with images")
    assert_refused(headwater("audit", index, "--alternatives", "red"), "fewer than two values")
    assert_refused(headwater("audit", index, *KINDS, "--top", 0), "--top 0 must be at least 1")
