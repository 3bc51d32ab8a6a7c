"""Networks alone: a folder of their own, and checkpoints of a training."""

import json
import shutil

import pytest
import torch
from support.tiny import tiny_pipeline, tiny_unconditional
from support.tiny_joint import flux

from headwater import Denoiser
from headwater.errors import ModelError


def refused(folder, reason, **options):
    with pytest.raises(ModelError, match=reason) as caught:
        Denoiser.load(folder, **options)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("cannot load the model")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second model with the same encoders."""
    return tiny_pipeline(tmp_path_factory.mktemp("folders") / "other", seed=1)


@pytest.mark.parametrize("place", ["unet", "checkpoint-500"])
def test_a_unet_alone(tiny_model, other, tmp_path, place):
    """By itself, and in the folder that diffusers' training scripts leave at a step."""
    if place == "checkpoint-500":
        shutil.copytree(other / "unet", tmp_path / place / "unet")
        (tmp_path / place / "optimizer.bin").write_bytes(b"x")
    else:
        shutil.copytree(other / "unet", tmp_path / place)
    ours = Denoiser.load(tmp_path / place, base=tiny_model)
    exact = Denoiser.load(other)
    assert ours.fingerprint() == exact.fingerprint() != Denoiser.load(tiny_model).fingerprint()
    assert ours.like(tmp_path / place).fingerprint() == exact.fingerprint()
    refused(tmp_path / place, "it holds a network alone: give the pipeline .* as --base")


def test_a_transformer_alone(tmp_path):
    model = flux(tmp_path / "flux")
    shutil.copytree(model / "transformer", tmp_path / "mine")
    ours = Denoiser.load(tmp_path / "mine", base=model, dtype=torch.bfloat16)
    assert ours.fingerprint() == Denoiser.load(model, dtype=torch.bfloat16).fingerprint()


def test_a_network_of_another_kind(tiny_model, tmp_path):
    pixels = tiny_unconditional(tmp_path / "pixels") / "unet"
    refused(pixels, "is a UNet2DModel, and --base has a UNet2DConditionModel", base=tiny_model)
    refused(tiny_model, "it is a whole pipeline: leave --base out", base=tiny_model)
    config = tmp_path / "odd" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"_class_name": "Mine"}))
    refused(config.parent, "its config.json is of a 'Mine', which is no network", base=tiny_model)


def test_numbers_of_a_few_bits(tiny_model, tmp_path):
    """Quantised models: what they compute with is not what was trained."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    file = model / "unet" / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": {"quant_method": "torchao"}}
    file.write_text(json.dumps(config))
    refused(model, r"unet was saved with its numbers rounded to a few bits \(torchao\): give the")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_read_in_the_type_that_is_asked_for(tiny_model, dtype, monkeypatch):
    """None of them stands in memory in another, not even on the way."""
    seen = []
    move = torch.nn.Module.to

    def note(module, *args, **kwargs):
        seen.extend(parameter.dtype for parameter in module.parameters())
        return move(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", note)
    Denoiser.load(tiny_model, dtype=dtype)
    assert set(seen) == {dtype}
