"""LoRA adapters beside a model, and inside it, where they cannot stay."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.command_line import FAST, PROMPT, assert_refused, headwater
from support.conditions import words_of
from support.exact_gradients import layer_errors
from support.tiny import tiny_pipeline, tiny_unconditional
from support.tiny_joint import flux
from support.tiny_unets import sdxl

from headwater import Denoiser
from headwater.errors import HeadwaterWarning, ModelError, ParameterError
from headwater.features.gradcheck import self_check
from headwater.models.loading import adapters

peft = pytest.importorskip("peft")

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 3438167534\n"


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
    assert denoiser.options["lora"] == [str(lora / file).rstrip("/")] and denoiser.source == str(
        tiny_model
    )
    xt, c = torch.randn(1, 4, 8, 8), plain.encode_captions(["a red star"])
    with torch.no_grad():
        ours, theirs, without = (each.predict(xt, 500, c) for each in (denoiser, exact, plain))
    torch.testing.assert_close(ours, theirs)
    assert (ours - without).abs().max() > 1e-3
    assert denoiser.fingerprint() != plain.fingerprint()
    assert denoiser.fingerprint() == Denoiser.load(tiny_model, lora=lora).fingerprint()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_in_float32_go_into_a_model_in_half_precision(tiny_model, lora, dtype):
    """Training scripts save them so; compared by content, they are what was rounded."""
    denoiser = Denoiser.load(tiny_model, dtype=dtype, lora=lora)
    exact = dict(Denoiser.load(tiny_model, lora=lora).network.named_parameters())
    found = {n: p for n, p in denoiser.network.named_parameters() if ".lora_" in n}
    assert found
    for name, parameter in found.items():
        assert torch.equal(parameter, exact[name].to(dtype))


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
    assert manifest["model"]["options"]["lora"] == [str(moved)]
    assert all(".lora_" in name for name in manifest["recipe"]["layers"])
    assert json.loads(headwater("info", index, "--json").out)["lora"] == str(moved)
    ask = ("concept", index, PROMPT, "--concept", "star", "--draws", 2, "--out", tmp_path / "out")
    first = headwater(*ask)
    assert first.code == 0, first.err

    shutil.rmtree(moved)  # the same adapters elsewhere
    assert headwater(*ask).out == first.out  # kept, so that no model is needed
    assert_refused(headwater(*ask, "--fresh"), f"cannot load --lora '{moved}'")
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
    refused(free, lora, "DDPMPipeline takes no LoRA adapters but those that PEFT saved")
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


# --- what a file holds and what is loaded ---------------------------------------------------------


def rewritten(lora, folder, change):
    """A LoRA file with its tensors changed."""
    (file,) = lora.glob("*.safetensors")
    folder.mkdir()
    save_file(change(load_file(file)), folder / file.name)
    return folder


def refused_as(model, lora, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        Denoiser.load(model, lora=lora)
    assert "\n" not in str(caught.value)


def test_a_folder_of_several_files_is_not_chosen_from(tmp_path, tiny_model, lora):
    (file,) = lora.glob("*.safetensors")
    for name in ("mine-000001", "mine", "other", "z"):
        shutil.copy(file, tmp_path / f"{name}.safetensors")
    few = r"it holds 4 safetensors files \(mine-000001\.safetensors, mine\.safetensors, other"
    refused_as(tiny_model, tmp_path, few)
    loaded = Denoiser.load(tiny_model, lora=tmp_path / "other.safetensors")
    assert loaded.fingerprint() == Denoiser.load(tiny_model, lora=lora).fingerprint()


def test_keys_that_fit_no_layer_are_named(tmp_path, tiny_model, lora):
    odd = {f"unet.nowhere.to_k.lora_{side}.weight": torch.randn(2, 2) for side in "AB"}
    more = rewritten(lora, tmp_path / "more", lambda tensors: tensors | odd)
    refused_as(tiny_model, more, r"2 of its \d+ tensors fit no layer of this model \(unet\.nowhere")
    scale = {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.dora_scale": torch.ones(3)
    }
    scaled = rewritten(lora, tmp_path / "scaled", lambda tensors: tensors | scale)
    refused_as(tiny_model, scaled, r"1 of its \d+ tensors are of a kind that diffusers .*mid_b")
    none = rewritten(lora, tmp_path / "none", lambda tensors: odd)
    refused_as(tiny_model, none, "cannot load --lora")


def test_keys_of_another_text_encoder_are_left_out_with_a_word(tmp_path, tiny_model, lora):
    odd = {f"text_encoder_2.layers.0.q_proj.lora_{side}.weight": torch.randn(2, 2) for side in "AB"}
    more = rewritten(lora, tmp_path / "more", lambda tensors: tensors | odd)
    with pytest.warns(HeadwaterWarning, match=r"2 of its \d+ tensors fit no layer of the text enc"):
        loaded = Denoiser.load(tiny_model, lora=more)
    assert loaded.fingerprint() == Denoiser.load(tiny_model, lora=lora).fingerprint()


def test_layers_of_the_text_encoder_are_used_and_attributed(tmp_path, tiny_model):
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    pipe = adapted(tiny_model)
    wanted = dict(target_modules=["q_proj", "v_proj"], r=2, lora_alpha=2)
    pipe.text_encoder.add_adapter(peft.LoraConfig(**wanted, init_lora_weights=False))
    unet, words = (get_peft_model_state_dict(part) for part in (pipe.unet, pipe.text_encoder))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet, words)
    loaded = Denoiser.load(tiny_model, lora=tmp_path)
    assert len(loaded.adapters) == 2 * 2 and loaded.adapters.keys() < loaded.layers().keys()
    both = (loaded, Denoiser(pipe))
    ours, theirs = (words_of(each.encode_captions(["a red star"])) for each in both)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("mark", "kind"), [("oft_blocks", "OFT"), ("diff", "full")])
def test_other_kinds_of_adapters_are_named(tmp_path, tiny_model, mark, kind):
    tensors = {f"lora_unet_mid_block_attentions_0_proj_in.{mark}": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "mine.safetensors")
    refused_as(tiny_model, tmp_path, f"it holds {kind} tensors .*, and headwater takes LoRA, LoKr")


def trained_by_peft(folder, model, **changes):
    """As `get_peft_model(unet, ...).save_pretrained` leaves it; and the pipeline with it."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(model)
    wanted = dict(r=2, lora_alpha=8, target_modules=["to_k", "to_v"], init_lora_weights=False)
    peft.get_peft_model(pipe.unet, peft.LoraConfig(**wanted | changes)).save_pretrained(folder)
    return pipe


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True, "rank_pattern": {"to_v": 4}}])
def test_a_folder_that_peft_saved(tmp_path, tiny_model, changes):
    """With its scale, which is in the configuration and not in the tensors."""
    exact = Denoiser(trained_by_peft(tmp_path / "lora", tiny_model, **changes))
    denoiser = Denoiser.load(tiny_model, lora=tmp_path / "lora")
    xt, c = torch.randn(1, 4, 8, 8), denoiser.encode_captions(["a red star"])
    with torch.no_grad():
        ours, theirs = (each.predict(xt, 500, c) for each in (denoiser, exact))
    torch.testing.assert_close(ours, theirs)
    assert denoiser.layers("lora").keys() and denoiser.options["lora"] == [str(tmp_path / "lora")]


def test_a_dora_that_peft_saved_is_attributed_with_its_magnitudes(tmp_path, tiny_model):
    pipe = trained_by_peft(tmp_path / "lora", tiny_model, use_dora=True)
    denoiser = Denoiser.load(tiny_model, lora=tmp_path / "lora", dtype=torch.float64)
    layers = denoiser.layers("lora")
    magnitudes = [name for name in layers if name.endswith(".lora_magnitude_vector.lora")]
    assert len(layers) == 3 * len(magnitudes) > 0
    xt, condition = torch.randn(2, 4, 8, 8).double(), denoiser.encode_captions(["a", "b"])
    errors = layer_errors(denoiser, layers, xt, 499, condition)
    assert errors.keys() == layers.keys() and max(errors.values()) < 1e-8
    exact = Denoiser(pipe, dtype=torch.float64).predict(xt, 499, condition)
    torch.testing.assert_close(denoiser.predict(xt, 499, condition), exact)


def test_what_peft_saved_of_something_else(tmp_path, tiny_model):
    trained_by_peft(tmp_path / "lora", tiny_model)
    file = tmp_path / "lora" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"target_modules": ["nowhere"]}))
    refused_as(tiny_model, tmp_path / "lora", "adapter for the layers .*nowhere.* another network")
    file.write_text(json.dumps(config | {"target_modules": ["to_k", "to_v", "to_q"]}))
    refused_as(tiny_model, tmp_path / "lora", "names layers that it has no tensors of: .*to_q")
    file.write_text(json.dumps(config | {"peft_type": "OFT"}))
    refused_as(tiny_model, tmp_path / "lora", "an adapter of PEFT's type OFT, and headwater takes")


def test_what_a_network_saved_of_itself(tmp_path, tiny_model):
    pipe = adapted(tiny_model)
    pipe.unet.save_lora_adapter(tmp_path / "network")
    denoiser, exact = Denoiser.load(tiny_model, lora=tmp_path / "network"), Denoiser(pipe)
    xt, c = torch.randn(1, 4, 8, 8), denoiser.encode_captions(["a red star"])
    with torch.no_grad():
        torch.testing.assert_close(denoiser.predict(xt, 500, c), exact.predict(xt, 500, c))


def test_a_pointer_in_the_place_of_adapters(tmp_path, tiny_model):
    (tmp_path / "mine.safetensors").write_text(POINTER)
    refused_as(tiny_model, tmp_path, r"mine\.safetensors is a git-lfs pointer, .*: run `git lfs")


# --- by other trainers' names ---------------------------------------------------------------------


def factors(layer, rank, generator):
    """(down, up) of a linear layer or a convolution, random."""
    out, wide, *kernel = layer.weight.shape
    down = torch.randn(rank, wide, *kernel, generator=generator)
    return down, torch.randn(out, rank, *[1] * len(kernel), generator=generator)


def save_by_kohya(file, parts, rank=2, alpha=1.0):
    """Adapters of these layers as sd-scripts name them, and what each adds to its weight.

    `parts` is prefix -> (network, names of layers, a name of each).
    """
    generator, tensors, added = torch.Generator().manual_seed(0), {}, {}
    for prefix, (network, layers, renamed) in parts.items():
        for name in layers:
            layer = network.get_submodule(name)
            down, up = factors(layer, rank, generator)
            stem = f"{prefix}_{renamed(name).replace('.', '_')}"
            tensors |= {
                f"{stem}.lora_down.weight": down,
                f"{stem}.lora_up.weight": up,
                f"{stem}.alpha": torch.tensor(alpha),
            }
            product = (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)
            added[layer] = alpha / rank * product
    save_file(tensors, file)
    return added


def merged(model, added, scale=1.0):
    """The pipeline with the adapters in its weights."""
    with torch.no_grad():
        for layer, product in added.items():
            layer.weight.add_(scale * product)
    return Denoiser(model)


def same(one, two):
    xt = torch.randn(1, *one.latent_shape)
    with torch.no_grad():
        ours, theirs = (m.predict(xt, 500, m.encode_captions(["a red star"])) for m in (one, two))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


BLOCK = "down_blocks.0.attentions.0"
OF_UNET = [
    *(f"{BLOCK}.transformer_blocks.0.attn{n}.to_{x}" for n in (1, 2) for x in ("q", "k", "v")),
    f"{BLOCK}.transformer_blocks.0.attn2.to_out.0",
    f"{BLOCK}.transformer_blocks.0.ff.net.0.proj",
    f"{BLOCK}.transformer_blocks.0.ff.net.2",
    f"{BLOCK}.proj_in",
    f"{BLOCK}.proj_out",
    "down_blocks.0.resnets.0.conv1",
    "mid_block.resnets.1.time_emb_proj",
    "down_blocks.0.downsamplers.0.conv",
]  # fmt: skip
OF_WORDS = [
    *(f"encoder.layers.0.self_attn.{x}_proj" for x in ("q", "k", "v", "out")),
    "encoder.layers.0.mlp.fc1",
    "encoder.layers.0.mlp.fc2",
]


def as_it_is(name):
    return name


def test_what_sd_scripts_saved_of_stable_diffusion(tmp_path, tiny_model):
    """The model is the one with the products in its weights, times alpha over rank."""
    pipe = Denoiser.load(tiny_model).pipe
    file = tmp_path / "kohya.safetensors"
    parts = {
        "lora_unet": (pipe.unet, OF_UNET, as_it_is),
        "lora_te": (pipe.text_encoder, OF_WORDS, "text_model.{}".format),
    }
    added = save_by_kohya(file, parts)
    loaded = Denoiser.load(tiny_model, lora=file)
    assert len(loaded.layers("lora")) == 2 * len(OF_UNET + OF_WORDS)
    same(loaded, merged(pipe, added))


def test_what_sd_scripts_saved_of_sdxl(tmp_path):
    """Its blocks by the numbers that Stable Diffusion XL was published with; two encoders."""
    model = sdxl(tmp_path / "sdxl")
    pipe = Denoiser.load(model).pipe

    def numbered(name):
        return name.replace("down_blocks.0.attentions.0", "input_blocks.1.1")

    wanted = [name for name in OF_UNET if name.startswith(BLOCK)]
    parts = {
        "lora_unet": (pipe.unet, wanted, numbered),
        "lora_te1": (pipe.text_encoder, OF_WORDS, "text_model.{}".format),
        "lora_te2": (pipe.text_encoder_2, ["text_model." + n for n in OF_WORDS], as_it_is),
    }
    added = save_by_kohya(tmp_path / "kohya.safetensors", parts)
    same(Denoiser.load(model, lora=tmp_path / "kohya.safetensors"), merged(pipe, added))


def test_what_sd_scripts_saved_of_flux(tmp_path):
    """Three projections that are one there; alpha goes into the numbers as they are renamed."""
    model = flux(tmp_path / "flux")
    pipe = Denoiser.load(model, resolution=16).pipe
    generator, width = torch.Generator().manual_seed(0), pipe.transformer.inner_dim
    down = torch.randn(3, width, generator=generator)
    up = torch.randn(3 * width, 3, generator=generator)
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {
        f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": torch.tensor(1.5),
    }  # fmt: skip
    save_file(tensors, tmp_path / "kohya.safetensors")
    attention = pipe.transformer.transformer_blocks[0].attn
    layers = (attention.to_q, attention.to_k, attention.to_v)
    added = dict(zip(layers, (0.5 * up @ down).chunk(3), strict=True))
    loaded = Denoiser.load(model, lora=tmp_path / "kohya.safetensors", resolution=16)
    xt = torch.randn(1, *loaded.latent_shape)
    exact = Denoiser(pipe, resolution=16)
    with torch.no_grad():
        for layer, product in added.items():
            layer.weight.add_(product)
        ours, theirs = (m.predict(xt, 500, m.encode_captions(["a"])) for m in (loaded, exact))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_a_conversion_leaves_out_is_named(tmp_path, tiny_model):
    """DoRA's magnitudes, by kohya's names, which diffusers drops with a word in its log."""
    pipe, file = Denoiser.load(tiny_model).pipe, tmp_path / "dora.safetensors"
    save_by_kohya(file, {"lora_unet": (pipe.unet, OF_UNET[:2], as_it_is)})
    stem = f"lora_unet_{OF_UNET[0].replace('.', '_')}"
    save_file(load_file(file) | {f"{stem}.dora_scale": torch.ones(1, 8)}, file)
    refused_as(tiny_model, file, r"1 of its 7 tensors are of a kind that .*attn1_to_q\.dora_scale")


# --- several --------------------------------------------------------------------------------------


def test_several_adapters_and_their_factors(tmp_path, tiny_model):
    """Each adds its product times its factor."""
    pipe = Denoiser.load(tiny_model).pipe
    first, second = (tmp_path / f"{name}.safetensors" for name in ("first", "second"))
    layers = {"lora_unet": (pipe.unet, OF_UNET[:3], as_it_is)}
    one, two = save_by_kohya(first, layers), save_by_kohya(second, layers, rank=3, alpha=2.0)
    loaded = Denoiser.load(tiny_model, lora=[first, second], lora_scale=[0.5, -0.25])
    assert loaded.options["lora_scale"] == [0.5, -0.25]
    assert len(loaded.layers("lora")) == 2 * 2 * 3
    merged(pipe, one, 0.5)
    exact = merged(pipe, two, -0.25)
    same(loaded, exact)
    plain = Denoiser.load(tiny_model, lora=[first, second])
    assert plain.fingerprint() != loaded.fingerprint()
    with pytest.raises(ParameterError, match=r"--lora-scale is given 1 time\(s\) and --lora 2"):
        Denoiser.load(tiny_model, lora=[first, second], lora_scale=0.5)
    with pytest.raises(TypeError, match="'loras' is no option of a model: base, buckets"):
        Denoiser.load(tiny_model, loras=[first])


def test_gradients_of_several_are_exact(tmp_path, tiny_model):
    pipe, files = Denoiser.load(tiny_model).pipe, [tmp_path / f"{n}.safetensors" for n in "ab"]
    for file in files:
        save_by_kohya(file, {"lora_unet": (pipe.unet, OF_UNET, as_it_is)})
    denoiser = Denoiser.load(tiny_model, lora=files, lora_scale=[1.0, 0.5], dtype=torch.float64)
    xt, condition = torch.randn(2, 4, 8, 8).double(), denoiser.encode_captions(["a", "b"])
    errors = layer_errors(denoiser, denoiser.layers("lora"), xt, 499, condition)
    assert len(errors) == 4 * len(OF_UNET) and max(errors.values()) < 1e-8


def test_the_file_of_a_checkpoint_among_others(tmp_path, tiny_model, lora):
    """Diffusers' training scripts leave other files beside it."""
    folder = shutil.copytree(lora, tmp_path / "checkpoint-500")
    save_file({"optimizer": torch.ones(2)}, folder / "model.safetensors")
    ours, theirs = (Denoiser.load(tiny_model, lora=each) for each in (folder, lora))
    assert ours.fingerprint() == theirs.fingerprint()
