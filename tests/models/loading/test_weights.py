"""Models as people hold them: renamed, cut short, in other variants, or no models at all."""

import json
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.command_line import FAST, assert_refused, headwater
from support.conditions import words_of
from support.tiny_clip import tiny_clip

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.models.clip import Clip

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 3438167534\n"
FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def rewrite(file, change):
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def refused(model, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        Denoiser.load(model)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("cannot load the model")


# --- tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_names_of_a_wrapper(model, part, prefix):
    file = model / part / FILES[part]
    rewrite(file, lambda tensors: {prefix + name: t for name, t in tensors.items()})
    refused(
        model, rf"{part}: \d+ tensors \({prefix}\w+.*\) are named with '{prefix}', of a wrapper"
    )


@pytest.mark.parametrize("part", FILES)
def test_a_tensor_that_is_not_there(model, part):
    file = model / part / FILES[part]
    gone = sorted(load_file(file))[0]
    rewrite(file, lambda tensors: {name: t for name, t in tensors.items() if name != gone})
    refused(model, rf"{part}: 1 tensor \({gone}\) is not in its file; they would be random numbers")


@pytest.mark.parametrize("part", FILES)
def test_a_tensor_without_a_place(model, part):
    rewrite(model / part / FILES[part], lambda tensors: tensors | {"extra.weight": torch.ones(2)})
    refused(model, rf"{part}: 1 tensor \(extra\.weight\) is of no use to the network")


@pytest.mark.parametrize("part", FILES)
def test_a_tensor_of_another_name(model, part):
    file = model / part / FILES[part]
    renamed = sorted(load_file(file))[:5]
    new = {name: f"odd.{name}" for name in renamed}
    rewrite(file, lambda tensors: {new.get(name, name): t for name, t in tensors.items()})
    refused(model, rf"{part}: 5 tensors \(.*, \.\.\.\) are not in its file, and 5 others are there")


@pytest.mark.parametrize("part", FILES)
def test_a_tensor_of_another_size(model, part):
    rewrite(model / part / FILES[part], lambda tensors: {n: t[:-1] for n, t in tensors.items()})
    refused(model, "another size than config.json says|expected shape")


def test_tensors_that_no_text_encoder_needs(model, tiny_model):
    """Older versions saved positions; converters leave what a whole CLIP has beside its texts."""
    more = {"text_model.embeddings.position_ids": torch.arange(32)[None]}
    more |= {"logit_scale": torch.ones(()), "text_projection.weight": torch.ones(2, 2)}
    rewrite(model / "text_encoder" / FILES["text_encoder"], lambda tensors: tensors | more)
    assert Denoiser.load(model).fingerprint() == Denoiser.load(tiny_model).fingerprint()


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_clip_likewise(tmp_path, prefix):
    source = tiny_clip(tmp_path / "clip")
    gone = "logit_scale"
    rewrite(
        source / "model.safetensors",
        lambda tensors: {prefix + name: t for name, t in tensors.items() if prefix or name != gone},
    )
    with pytest.raises(ModelError, match=r"cannot load the CLIP model '.*clip: .* tensors? \("):
        Clip(source)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", FILES)
def test_pointers_of_git_lfs(model, part):
    (model / part / FILES[part]).write_text(POINTER)
    refused(model, rf"{part}/{FILES[part]} is a git-lfs pointer, .*: run `git lfs pull` where")


@pytest.mark.parametrize("file", ["model_index.json", "tokenizer/tokenizer.json"])
def test_pointers_of_small_files(model, file):
    (model / file).write_text(POINTER)
    refused(model, "is a git-lfs pointer, .*: run `git lfs pull`")


def test_a_variant_is_loaded_by_itself(model, tiny_model):
    """As `save_pretrained(variant="fp16")` leaves it, or for some parts alone."""
    pipe = Denoiser.load(tiny_model, dtype=torch.float16).pipe
    shutil.rmtree(model)
    pipe.save_pretrained(model, variant="fp16")
    assert (model / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    half = Denoiser.load(model)
    exact = Denoiser.load(tiny_model)
    for ours, theirs in zip(half.network.parameters(), exact.network.parameters(), strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs.half().float())
    shutil.rmtree(model / "vae")
    shutil.copytree(tiny_model / "vae", model / "vae")
    assert torch.equal(Denoiser.load(model).pipe.vae.encoder.conv_in.weight,
                       exact.pipe.vae.encoder.conv_in.weight)  # fmt: skip


def test_several_variants_are_not_chosen_from(model):
    plain = model / "unet" / FILES["unet"]
    for variant in ("fp16", "ema"):
        shutil.copy(plain, plain.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    Denoiser.load(model)  # the plain one
    plain.unlink()
    refused(model, r"unet holds the variants ema, fp16 and no diffusion_pytorch_model\.safetensors")


def test_pickles_are_refused_with_what_converts_them(model):
    file = model / "unet" / FILES["unet"]
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    refused(model, r"unet holds diffusion_pytorch_model\.bin and no safetensors, .* by `python -c")
    file.with_suffix(".bin").unlink()
    refused(model, r"unet holds no diffusion_pytorch_model\.safetensors")
    shutil.rmtree(model / "unet")
    refused(model, "it has no folder 'unet'")


def test_a_single_file_and_a_folder_of_something_else(model, tmp_path):
    refused(model / "unet" / FILES["unet"], "it holds a network alone: give .* as --base")
    refused(model / "unet", "it holds a network alone: give .* as --base")
    refused(model / "tokenizer", r"it has no model_index\.json: give a folder saved with")


def test_a_tokenizer_without_a_limit(model, tiny_model):
    file = model / "tokenizer" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["model_max_length"]
    file.write_text(json.dumps(config))
    ours, exact = Denoiser.load(model), Denoiser.load(tiny_model)
    long = ["a red star " * 30, "a fish"]
    assert torch.equal(*(words_of(each.encode_captions(long)) for each in (ours, exact)))
    assert ours.fingerprint() == exact.fingerprint()


# --- code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    {"_class_name": ["pipe", "MyPipe"]}, {"unet": ["pipe", "MyUnet"]}, {"scheduler": ["pipe", "X"]},
    {"_class_name": None},
], ids=str)  # fmt: skip
def test_code_in_a_model_folder_is_never_run(model, change, tmp_path, tiny_images):
    ran = model / "ran"
    code = f"open({str(ran)!r}, 'w')\nfrom diffusers import StableDiffusionPipeline as MyPipe\n"
    for place in (model, model / "unet", model / "scheduler"):
        (place / "pipe.py").write_text(code)
    file = model / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(model, "is code of its own .*, which is never run")
    assert not ran.exists()
    result = headwater("index", model, tiny_images, tmp_path / "index", *FAST)
    assert_refused(result, f"cannot load the model '{model}'")
    assert not ran.exists() and not (tmp_path / "index").exists()


# --- the hub --------------------------------------------------------------------------------------


def test_names_that_are_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    refused("someone/some-model", "not in the hub's cache, and HF_HUB_OFFLINE keeps us from asking")
    refused(tmp_path / "none", r"\(there is no such file or folder\)")
    with pytest.raises(ModelError, match=r"CLIP model 'someone/clip': .* HF_HUB_OFFLINE keeps us"):
        Clip("someone/clip")


HUB = huggingface_hub.errors
ANSWERS = {
    "no network": (
        HUB.LocalEntryNotFoundError("x"),
        "the hub cannot be reached: check the network",
    ),
    "offline": (ConnectionError("x"), "the hub cannot be reached: check the network"),
    "no pipeline": (HUB.EntryNotFoundError("x"), r"its repository has no model_index\.json"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_hub_answers(monkeypatch, name):
    error, reason = ANSWERS[name]

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    refused("someone/some-model", reason)


def test_importing_models_is_quick():
    """A cached answer needs neither diffusers nor transformers."""
    code = (
        "import sys, headwater.models.denoiser, headwater.models.sampling, headwater.models.clip\n"
        "import headwater.models.textual_inversion, headwater.models.patches\n"
        "print([m for m in ('diffusers', 'transformers', 'peft') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
