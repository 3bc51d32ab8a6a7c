"""LoRA adapters beside a model, and inside it, where they cannot stay."""

import json
import shutil

import pytest
import torch
from support.command_line import FAST, PROMPT, assert_refused, headwater
from support.tiny import tiny_pipeline, tiny_unconditional

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.features.gradcheck import self_check
from headwater.models import adapters

peft = pytest.importorskip("peft")


def adapted(model, seed=0):
    """The pipeline with random adapters of its attention."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(model)
    torch.manual_seed(seed)
    wanted = dict(target_modules=["to_k", "to_v"], r=2, lora_alpha=2)
    pipe.unet.add_adapter(peft.LoraConfig(**wanted, init_lora_weights=False))
    return pipe


def save_lora(folder, model, seed=0):
    """Its adapters alone, as diffusers' training scripts save them."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    weights = get_peft_model_state_dict(adapted(model, seed).unet)
    StableDiffusionPipeline.save_lora_weights(folder, convert_state_dict_to_diffusers(weights))
    return folder


@pytest.fixture(scope="module")
def lora(tmp_path_factory, tiny_model):
    return save_lora(tmp_path_factory.mktemp("loading") / "lora", tiny_model)


@pytest.mark.parametrize("file", ["", "pytorch_lora_weights.safetensors"])
def test_adapters_are_what_was_trained(tiny_model, lora, file):
    """The prediction with them is that of the pipeline that they were saved from."""
    denoiser, plain = Denoiser.load(tiny_model, lora=lora / file), Denoiser.load(tiny_model)
    exact = Denoiser(adapted(tiny_model))
    assert denoiser.lora == str(lora / file).rstrip("/") and denoiser.source == str(tiny_model)
    xt, c = torch.randn(1, 4, 8, 8), plain.encode_captions(["a red star"])
    with torch.no_grad():
        ours, theirs, without = (each.predict(xt, 500, c) for each in (denoiser, exact, plain))
    torch.testing.assert_close(ours, theirs)
    assert (ours - without).abs().max() > 1e-3
    assert denoiser.fingerprint() != plain.fingerprint()
    assert denoiser.fingerprint() == Denoiser.load(tiny_model, lora=lora).fingerprint()


def test_gradients_of_adapters_are_exact(tiny_model, lora):
    """Keys and values are projected once for each caption, through the adapters too."""
    denoiser = Denoiser.load(tiny_model, lora=lora)
    layers = denoiser.layers("lora")
    assert layers and all(".lora_" in name for name in layers)
    condition = denoiser.encode_captions(["a red star", "a fish"])
    said = self_check(denoiser, layers, torch.randn(2, 4, 8, 8), condition)
    assert said.startswith(f"self-check: {len(layers)} layers exact to ")


def test_an_index_of_adapters_is_asked_by_a_later_process(tmp_path, tiny_model, tiny_images, lora):
    index, moved = tmp_path / "index", shutil.copytree(lora, tmp_path / "moved")
    command = ("index", tiny_model, tiny_images, index, *FAST, "--parameters", "lora", "--lora")
    assert headwater(*command, moved, "--limit", 6).code == 0
    manifest = json.loads((index / "index.json").read_text())
    assert manifest["model"]["lora_source"] == str(moved)
    assert all(".lora_" in name for name in manifest["recipe"]["layers"])
    assert json.loads(headwater("info", index, "--json").out)["adapters"] == str(moved)
    ask = ("concept", index, PROMPT, "--concept", "star", "--draws", 2, "--out", tmp_path / "out")
    first = headwater(*ask)
    assert first.code == 0, first.err

    shutil.rmtree(moved)  # the same adapters elsewhere
    assert_refused(headwater(*ask), f"cannot load --lora '{moved}'")
    assert headwater(*command, lora, "--limit", 6).code == 0
    assert headwater(*ask).out == first.out
    save_lora(lora.parent / "other", tiny_model, seed=1)
    result = headwater(*command, lora.parent / "other", "--limit", 6)
    assert_refused(result, "was begun with model fingerprint")


def test_what_are_no_adapters(tmp_path, tiny_model, lora, monkeypatch):
    def refused(model, lora, said):
        with pytest.raises(ModelError, match=said) as caught:
            Denoiser.load(model, lora=lora)
        assert "\n" not in str(caught.value)

    for folder in (tmp_path / "none", tiny_model):
        refused(tiny_model, folder, "cannot load --lora .* give a folder or a safetensors file")
    torch.save({}, tmp_path / "weights.bin")
    refused(tiny_model, tmp_path / "weights.bin", r"cannot load --lora '.*weights.bin'")
    wide = tiny_pipeline(tmp_path / "wide", block_out_channels=(16, 32))
    refused(wide, lora, "cannot load --lora .* size mismatch|cannot load --lora .*Error")
    free = tiny_unconditional(tmp_path / "ddpm")
    refused(free, lora, "DDPMPipeline takes no LoRA adapters: leave --lora out")
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    refused(tiny_model, lora, r"--lora needs the extra: pip install 'headwater\[lora\]'")


@pytest.mark.parametrize("accelerate", [True, False])
def test_a_model_saved_with_adapters_inside(tmp_path, tiny_model, monkeypatch, accelerate):
    """Without accelerate the weights that PEFT renamed would be random, and nothing would tell."""
    adapted(tiny_model).save_pretrained(tmp_path / "model")
    if not accelerate:
        from diffusers.models import modeling_utils
        from diffusers.pipelines import pipeline_utils

        for module in (modeling_utils, pipeline_utils):
            monkeypatch.setattr(module, "is_accelerate_available", lambda: False)
    with pytest.raises(ModelError, match=r"adapters were saved inside it; .* the adapters as --l"):
        Denoiser.load(tmp_path / "model")


def test_checkpoints_are_whole_models(tmp_path, tiny_model, tiny_images, lora):
    more = ("--lora", lora, "--checkpoint", tiny_model)
    result = headwater("index", tiny_model, tiny_images, tmp_path / "index", *FAST, *more)
    assert_refused(result, "--checkpoint takes whole models, which --lora is no part of: fuse the")
    assert not (tmp_path / "index").exists()
