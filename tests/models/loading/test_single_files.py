"""Single files, as galleries and trainers hold them."""

import shlex
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.original_names import save_single_file
from support.tiny_joint import flux, qwen_image
from support.tiny_unets import sdxl

from headwater import Denoiser
from headwater.errors import ModelError

PROMPT = "a red star"


@pytest.fixture(scope="module")
def large_model(tmp_path_factory):
    return sdxl(tmp_path_factory.mktemp("single") / "sdxl", second=24)


@pytest.fixture(scope="module")
def described(tiny_model, large_model, tmp_path_factory):
    """Folders of configurations and tokenizers alone, without a weight."""
    out = tmp_path_factory.mktemp("single")
    for name, model in (("tiny", tiny_model), ("sdxl", large_model)):
        for file in model.rglob("*"):
            if file.is_file() and file.suffix != ".safetensors":
                copy = out / name / file.relative_to(model)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    return out


def refused(file, reason, **options):
    with pytest.raises(ModelError, match=reason) as caught:
        Denoiser.load(file, **options)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("cannot load the model")


def same(one, two):
    """All that is loaded is the same: weights by their fingerprints, and what comes of them."""
    xt = torch.randn(1, *one.latent_shape)
    with torch.no_grad():
        ours, theirs = (m.predict(xt, 500, m.encode_captions([PROMPT])) for m in (one, two))
        pictures = [each.pixels(xt) for each in (one, two)]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*pictures)
    assert one.encoders_fingerprint() == two.encoders_fingerprint()


@pytest.mark.parametrize("name", ["tiny", "sdxl"])
def test_a_whole_pipeline(name, tiny_model, large_model, described, tmp_path):
    """Read by a folder of configurations, it is the pipeline that it was written from."""
    exact = Denoiser.load({"tiny": tiny_model, "sdxl": large_model}[name])
    file = save_single_file(exact.pipe, tmp_path / "model.safetensors")
    ours = Denoiser.load(file, base=described / name)
    assert ours.source == str(file) and ours.options == {"base": str(described / name)}
    same(ours, exact)


def test_a_network_alone(tiny_model, tmp_path):
    """By the names it was published with, and by diffusers' own: the rest is the base's."""
    base, own = Denoiser.load(tiny_model), Denoiser.load(tiny_model)
    with torch.no_grad():
        for parameter in own.network.parameters():
            parameter.mul_(0.9)
    first = save_single_file(own.pipe, tmp_path / "first.safetensors", "unet")
    second = tmp_path / "second.safetensors"
    save_file(own.network.state_dict(), second)
    for file in (first, second):
        same(Denoiser.load(file, base=tiny_model), own)
    refused(first, "it holds a network alone: give the pipeline that it is part of as --base")
    assert base.fingerprint() != own.fingerprint()


def test_a_transformer_alone(tmp_path):
    model = flux(tmp_path / "flux")
    exact = Denoiser.load(model, resolution=16)
    file = tmp_path / "transformer.safetensors"
    save_file(exact.network.state_dict(), file)
    same(Denoiser.load(file, base=model, resolution=16), exact)


def test_half_of_the_memory(tiny_model, described, tmp_path):
    """Weights are of the type that was asked for, whatever the file's."""
    file = save_single_file(Denoiser.load(tiny_model).pipe, tmp_path / "model.safetensors")
    ours = Denoiser.load(file, dtype=torch.bfloat16, base=described / "tiny")
    exact = Denoiser.load(tiny_model, dtype=torch.bfloat16)
    assert ours.fingerprint() == exact.fingerprint()
    assert {parameter.dtype for parameter in ours.network.parameters()} == {torch.bfloat16}


def test_what_a_file_lacks_and_what_it_has_too_much(tiny_model, described, tmp_path):
    pipe, base = Denoiser.load(tiny_model).pipe, described / "tiny"
    file = save_single_file(pipe, tmp_path / "model.safetensors")
    tensors, network = load_file(file), pipe.unet.state_dict()

    def without(name):
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)

    without("model.diffusion_model.middle_block.1.proj_in.weight")
    refused(file, "some of the network's tensors are not in the file", base=base)
    without("cond_stage_model.transformer.text_model.final_layer_norm.bias")
    refused(file, r"text_encoder: 1 tensor \(final_layer_norm\.bias\) is not in the", base=base)
    save_file(network | {"down_blocks.7.conv.weight": torch.ones(2)}, file)
    refused(file, "it is of another model than --base, or lacks a part", base=tiny_model)
    save_file(network | {"conv_in.weight": torch.ones(8, 9, 3, 3)}, file)
    refused(file, "cannot load the model", base=tiny_model)


def test_a_file_whose_configurations_are_on_the_hub(tiny_model, tmp_path):
    file = save_single_file(Denoiser.load(tiny_model).pipe, tmp_path / "model.safetensors")
    refused(file, "those of stable-diffusion-v1-5/.* cannot be had .* folder .* as --base")


def test_files_that_are_no_models(tiny_model, tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(2, 2)}, file)
    refused(
        file, "it holds LoRA adapters: give the model that they were trained on, and this as --lora"
    )
    for name in ("model.ckpt", "model.pt", "model.bin"):
        (tmp_path / name).write_bytes(b"x")
        refused(
            tmp_path / name, f"pickles can run code: convert it by `python -c .*{name}.*save_file"
        )
    (tmp_path / "model.gguf").write_bytes(b"x")
    refused(tmp_path / "model.gguf", "rounded to a few bits")
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    refused(
        tmp_path / "model.safetensors",
        "give a folder saved with `save_pretrained`, a safetensors file",
    )


def test_the_conversion_that_is_named(tiny_model, described, tmp_path, monkeypatch):
    """It is run as it stands, on a checkpoint with what trainers leave in one."""
    exact = Denoiser.load(tiny_model)
    tensors = load_file(save_single_file(exact.pipe, tmp_path / "exact.safetensors"))
    torch.save({"state_dict": tensors, "global_step": 7}, tmp_path / "model.ckpt")
    with pytest.raises(ModelError) as caught:
        Denoiser.load(tmp_path / "model.ckpt")
    _, program, code = shlex.split(str(caught.value).partition("`")[2].rpartition("`")[0])
    assert program == "-c"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    same(Denoiser.load(tmp_path / "model.safetensors", base=described / "tiny"), exact)


def test_tensors_that_are_dropped_with_a_word_in_a_log(tmp_path):
    """As scales beside numbers of eight bits would be, without which these mean nothing."""
    model = qwen_image(tmp_path / "model")
    network = Denoiser.load(model, resolution=16).network
    file = tmp_path / "model.safetensors"
    save_file(network.state_dict(), file)
    same(Denoiser.load(file, base=model, resolution=16), Denoiser.load(model, resolution=16))
    name = "transformer_blocks.0.attn.to_q.scale_weight"
    save_file(network.state_dict() | {name: torch.ones(1)}, file)
    said = r"1 tensor \(transformer_blocks\.0\.attn\.to_q\.scale_weight\) is of no use to the net"
    refused(file, said, base=model, resolution=16)
