"""What is said of a model and images is what loading and indexing them finds."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from support.original_names import save_single_file
from support.tiny import tiny_folder, tiny_pipeline, tiny_unconditional
from support.tiny_joint import flux, z_image
from support.tiny_unets import sdxl

from headwater import Denoiser, from_images, load_dataset
from headwater.errors import ModelError
from headwater.gradients.layers import size
from headwater.quick.inspection import inspect_images, inspect_model

BUILDERS = {"unet": tiny_pipeline, "ddpm": tiny_unconditional, "sdxl": sdxl, "flux": flux,
            "z-image": z_image}  # fmt: skip


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request, tmp_path_factory):
    return BUILDERS[request.param](tmp_path_factory.mktemp("inspected") / "model")


def test_it_is_what_loading_finds(folder):
    """Without a number of it."""
    facts, outline = inspect_model(folder)
    exact = Denoiser.load(folder)
    assert all(p.is_meta for p in outline.network.parameters())
    assert outline.default_parameters() == exact.default_parameters()
    for name in ("attn", "words", "attention", "all"):
        if f"--parameters {name}" in facts:
            layers = exact.layers(name)
            numbers = sum(map(size, layers.values()))
            said = facts[f"--parameters {name}"].removesuffix(", taken by default")
            assert said == f"{numbers:,} numbers in {len(layers)} layers"
    assert outline.latent_shape == exact.latent_shape and outline.image_size == exact.image_size
    assert outline.schedule.prediction == exact.schedule.prediction
    total = sum(p.numel() for part in (exact.network, *exact.family.encoders.values())
                for p in part.parameters())  # fmt: skip
    assert facts["weights (MB)"] == round(4 * total / 1e6, 1)


def test_other_forms_of_models(tmp_path):
    model = sdxl(tmp_path / "sdxl", second=24)
    file = save_single_file(Denoiser.load(model).pipe, tmp_path / "sdxl.safetensors")
    whole, _ = inspect_model(model)
    single, _ = inspect_model(file, base=model)
    alone, _ = inspect_model(model / "unet", base=model)
    for facts in (single, alone):
        assert facts.pop("base") == str(model)
        assert {**facts, "model": ""} == {**whole, "model": ""}
    half, _ = inspect_model(model, torch.bfloat16)
    assert half["weights (MB)"] == pytest.approx(whole["weights (MB)"] / 2, abs=0.1)
    for place in (file, model / "unet"):
        with pytest.raises(ModelError, match="cannot load the model"):
            inspect_model(place)
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="unet holds no diffusion_pytorch_model"):
        inspect_model(model)


def test_what_is_never_attributed_is_named(tmp_path):
    facts, _ = inspect_model(z_image(tmp_path / "model"))
    assert "such as x_pad_token" in facts["never attributed"]


def test_images(tiny_model, tmp_path):
    _, model = inspect_model(tiny_model)
    data = load_dataset(tiny_folder(tmp_path / "photos", 4))
    facts = inspect_images(data, model)
    assert facts["images"] == 4 and facts["captions"] == "of all images"
    assert facts["sizes"] == "16 x 16 (all)" and facts["cut off"] == "nothing"
    assert "damaged" not in facts


def test_images_that_are_cut_and_captions_that_are_not_read(tiny_model):
    _, model = inspect_model(tiny_model)
    shapes = [(30, 20), (30, 20), (20, 20), (20, 80)]
    captions = ["a star", "", ["a", "b"], "a star " * 40]
    facts = inspect_images(from_images([Image.new("RGB", s) for s in shapes], captions), model)
    assert facts["captions"] == ("of 3 images, several of 1, 1 longer than the model reads")
    assert facts["sizes"] == "20 x 30 (2), 20 x 20 (1), 80 x 20 (1)"
    assert facts["cut off"] == "33% of the middle picture, 75% of the worst"
    none = inspect_images(from_images([Image.new("RGB", (4, 4))], [""]), model)
    assert none["captions"] == "none, which the model was trained with"


def test_damaged_images_are_named(tiny_model, tmp_path):
    _, model = inspect_model(tiny_model)
    folder = tiny_folder(tmp_path / "photos", 3)
    (folder / "train-00001.png").write_bytes(b"no picture")
    assert inspect_images(load_dataset(folder), model)["damaged"] == "1, such as train-00001.png"


def test_repeats_are_said(tiny_model):
    data = from_images([Image.new("RGB", (8, 8))] * 2, ["a", "b"])
    often = replace(data, samples=[data.samples[0], replace(data.samples[1], repeats=10)])
    denoiser = inspect_model(tiny_model)[1]
    assert inspect_images(often, denoiser)["repeats"] == "1 images once, 1 images 10 times"
    assert "repeats" not in inspect_images(data, denoiser)


def test_which_buckets_pictures_are_in(tiny_model):
    """And what is then cut off."""
    _, denoiser = inspect_model(tiny_model, buckets="16x16,16x24,24x16", resolution=16)
    shapes = [(20, 20), (16, 24), (32, 48), (20, 40)]
    data = from_images([Image.new("RGB", shape[::-1]) for shape in shapes], ["a"] * 4)
    facts = inspect_images(data, denoiser)
    assert facts["buckets used"] == "16 x 24 (3), 16 x 16 (1)"
    assert facts["cut off"] == "0% of the middle picture, 25% of the worst"
    assert "buckets used" not in inspect_images(data, Denoiser.load(tiny_model))
