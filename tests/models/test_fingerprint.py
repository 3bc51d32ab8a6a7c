"""All that changes a number changes the fingerprint; a folder's name, type or place does not."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from support.tiny import tiny_unconditional
from transformers import CLIPTextModel

from headwater import Denoiser

peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def own(tiny_model):
    denoiser = Denoiser.load(tiny_model)
    return denoiser.fingerprint(), denoiser.encoders_fingerprint()


def changed(tiny_model, tmp_path, part, **config):
    """The same weights under another configuration."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    file = model / part / "config.json"
    before = json.loads(file.read_text())
    assert all(before.get(name) != value for name, value in config.items())
    file.write_text(json.dumps(before | config))
    return Denoiser.load(model)


NETWORK = [
    {"attention_head_dim": 4}, {"act_fn": "gelu"}, {"freq_shift": 1}, {"flip_sin_to_cos": False},
    {"norm_eps": 1e-3}, {"norm_num_groups": 2}, {"mid_block_scale_factor": 2.0},
    {"resnet_out_scale_factor": 0.5}, {"upcast_attention": True}, {"center_input_sample": True},
]  # fmt: skip


@pytest.mark.parametrize("config", NETWORK, ids=str)
def test_the_networks_configuration(tiny_model, tmp_path, own, config):
    other = changed(tiny_model, tmp_path, "unet", **config)
    assert other.fingerprint() != own[0]
    assert other.encoders_fingerprint() == own[1]


ENCODERS = [
    ("text_encoder", {"num_attention_heads": 4}), ("text_encoder", {"layer_norm_eps": 1e-2}),
    ("text_encoder", {"hidden_act": "gelu"}), ("vae", {"scaling_factor": 0.5}),
    ("vae", {"norm_num_groups": 2}), ("vae", {"act_fn": "gelu"}), ("vae", {"shift_factor": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize("part, config", ENCODERS, ids=str)
def test_the_encoders_configurations(tiny_model, tmp_path, own, part, config):
    other = changed(tiny_model, tmp_path, part, **config)
    assert other.fingerprint() != own[0]
    assert other.encoders_fingerprint() != own[1]


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_every_weight(tiny_model, own, part):
    denoiser = Denoiser.load(tiny_model)
    with torch.no_grad():
        list(getattr(denoiser.pipe, part).parameters())[-1].view(-1)[-1] += 1e-3
    assert denoiser.fingerprint() != own[0]
    assert (denoiser.encoders_fingerprint() != own[1]) == (part != "unet")


def by_limit(pipe):
    pipe.tokenizer.model_max_length = 16


def by_word(pipe):
    pipe.tokenizer.add_tokens(["<new>"])


def by_padding(pipe):
    pipe.tokenizer.pad_token = "a</w>"


def by_side(pipe):
    pipe.tokenizer.padding_side = "left"


def by_tiles(pipe):
    pipe.vae.enable_tiling()


@pytest.mark.parametrize("change", [by_limit, by_word, by_padding, by_side, by_tiles])
def test_how_pictures_and_prompts_are_encoded(tiny_model, own, change):
    pipe = Denoiser.load(tiny_model).pipe
    change(pipe)
    other = Denoiser(pipe)
    assert other.fingerprint() != own[0] and other.encoders_fingerprint() != own[1]


@pytest.mark.parametrize("settings", [{"beta_end": 0.02}, {"prediction_type": "v_prediction"}])
def test_the_schedule(tiny_model, own, settings):
    pipe = Denoiser.load(tiny_model).pipe
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, **settings)
    assert Denoiser(pipe).fingerprint() != own[0]


def test_free_lunch(tiny_model, own):
    pipe = Denoiser.load(tiny_model).pipe
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    first = Denoiser(pipe).fingerprint()
    pipe.enable_freeu(s1=0.8, s2=0.2, b1=1.2, b2=1.4)
    assert len({own[0], first, Denoiser(pipe).fingerprint()}) == 3
    pipe.disable_freeu()
    assert Denoiser(pipe).fingerprint() == own[0]


# --- adapters -------------------------------------------------------------------------------------


def adapted(tiny_model, alpha=2, part="unet"):
    torch.manual_seed(0)
    pipe = Denoiser.load(tiny_model).pipe
    wanted = ["to_k"] if part == "unet" else ["q_proj"]
    config = peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=wanted, init_lora_weights=False)
    getattr(pipe, part).add_adapter(config, "mine")
    return pipe


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_the_scales_of_adapters(tiny_model, own, part):
    """The weights are the same in all of them; numbers are not."""
    prints = {own[0], Denoiser(adapted(tiny_model, 2, part)).fingerprint()}
    prints.add(Denoiser(adapted(tiny_model, 8, part)).fingerprint())
    pipe = adapted(tiny_model, 2, part)
    assert Denoiser(pipe).fingerprint() in prints  # the same again
    pipe.set_adapters("mine", 0.5)
    prints.add(Denoiser(pipe).fingerprint())
    pipe.disable_lora()
    prints.add(Denoiser(pipe).fingerprint())
    assert len(prints) == 5


# --- what does not count --------------------------------------------------------------------------


def test_where_a_model_lies_and_who_saved_it(tiny_model, tmp_path, own):
    moved = shutil.copytree(tiny_model, tmp_path / "elsewhere" / "model")
    for file in moved.glob("*/config.json"):
        facts = json.loads(file.read_text())
        facts["_name_or_path"] = "/somewhere/else"
        versions = {"_diffusers_version": "0.41.0", "transformers_version": "5.1.0"}
        facts |= {name: version for name, version in versions.items() if name in facts}
        if "architectures" in facts:
            facts["architectures"] = None
        file.write_text(json.dumps(facts))
    denoiser = Denoiser.load(moved)
    assert (denoiser.fingerprint(), denoiser.encoders_fingerprint()) == own


def test_a_model_in_memory_is_the_one_that_it_was_saved_as(tiny_model, tmp_path, own):
    pipe = Denoiser.load(tiny_model).pipe
    pipe.unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet")
    pipe.text_encoder = CLIPTextModel.from_pretrained(tiny_model / "text_encoder")
    pipe.unet.enable_gradient_checkpointing()
    denoiser = Denoiser(pipe)
    denoiser.encode_captions(["a call changes the tokenizer's own state"])
    assert denoiser.fingerprint() == own[0]
    pipe.save_pretrained(tmp_path / "again")
    assert Denoiser.load(tmp_path / "again").fingerprint() == own[0]


def test_the_type_that_weights_were_saved_in(tiny_model, tmp_path):
    """Weights that float16 holds exactly are the same model in both types."""
    pipe = Denoiser.load(tiny_model, dtype=torch.float16).pipe
    pipe.save_pretrained(tmp_path / "half")
    half = Denoiser.load(tmp_path / "half")
    half.pipe.save_pretrained(tmp_path / "full")
    assert half.fingerprint() == Denoiser.load(tmp_path / "full").fingerprint()


def test_encoders_of_another_type_encode_otherwise(tiny_model, own):
    assert Denoiser.load(tiny_model, dtype=torch.bfloat16).encoders_fingerprint() != own[1]


def test_a_model_without_encoders(tmp_path):
    model = tiny_unconditional(tmp_path)
    one, other = Denoiser.load(model), Denoiser.load(model)
    assert one.fingerprint() == other.fingerprint()
    assert one.encoders_fingerprint() == other.encoders_fingerprint()
