"""PixArt against the pipeline's own call: masks, and the sizes that the largest alpha reads."""

import peft
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.pipeline_calls import first_call
from support.tiny_cross import pixart, pixart_with_sizes

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.features.batch import encoded_batch
from headwater.gradients.parameters import left_out
from headwater.models.families.cross.pixart import PixArt

PROMPT = "a red star"
TINY = {"height": 16, "width": 16, "use_resolution_binning": False, "clean_caption": False}


def sigma(folder):
    return pixart(folder, "Sigma")


@pytest.fixture(scope="module", params=[pixart, pixart_with_sizes, sigma])
def denoiser(request, tmp_path_factory):
    folder = request.param(tmp_path_factory.mktemp("pixart") / "model")
    return Denoiser.load(folder, resolution=16)


def test_its_output_is_that_of_the_pipelines_own_call(denoiser):
    """Both halves: unconditional, and under the prompt."""
    assert isinstance(denoiser.family, PixArt) and denoiser.latent_shape == (4, 8, 8)
    given, out = first_call(denoiser.pipe, denoiser.network, PROMPT, guidance_scale=4.5, **TINY)
    t = given["timestep"].tolist()
    condition = denoiser.encode_captions(["", PROMPT])
    with torch.no_grad():
        ours = denoiser.predict(given[0], t[0], condition)
    torch.testing.assert_close(ours, out[:, :4], rtol=1e-5, atol=1e-6)
    assert t[0] == t[1] and (out[0] - out[1]).abs().max() > 1e-3


def test_a_row_is_the_same_alone_and_in_a_batch(denoiser):
    condition = denoiser.encode_captions([PROMPT, "a fish on a wavy background", ""])
    longest = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}[type(denoiser.pipe).__name__]
    assert condition.tensors["encoder_attention_mask"].shape == (3, longest)
    xt = torch.randn(3, *denoiser.latent_shape)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        alone = [denoiser.predict(xt[[i]], 499, condition[[i]]) for i in range(3)]
    torch.testing.assert_close(rows, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_words_are_keys_and_values_of_attention_to_them(denoiser):
    assert denoiser.default_parameters() == "words"
    assert set(denoiser.layers()) == {f"transformer_blocks.0.attn2.to_{x}" for x in "kv"}
    attention = set(denoiser.layers("attention"))
    assert {name.split(".")[2] for name in attention} == {"attn1", "attn2"}
    tables = ["scale_shift_table", "transformer_blocks.0.scale_shift_table"]
    assert list(denoiser.layers("table")) == tables and left_out(denoiser.network) == []


# --- sizes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sized(tmp_path_factory):
    return Denoiser.load(pixart_with_sizes(tmp_path_factory.mktemp("sized") / "m"), resolution=16)


def test_a_training_picture_brings_its_own_size(sized):
    """And the shape of what is left of it."""
    wide, small = Image.new("RGB", (60, 20), "red"), Image.new("RGB", (10, 10), "blue")
    batch = encoded_batch(sized, [wide, small], [[PROMPT], ["a fish"]], ["a", "b"])
    assert batch.condition.tensors["resolution"].tolist() == [[20, 60], [10, 10]]
    assert batch.condition.tensors["aspect_ratio"].tolist() == [[1], [1]]
    with torch.no_grad():
        ours = sized.predict(batch.x0, 499, batch.condition)
        whole = sized.predict(batch.x0, 499, sized.encode_captions([PROMPT, "a fish"]))
    assert (ours - whole).abs().flatten(1).amax(1).min() > 1e-3


def test_without_sizes_there_are_none(tmp_path):
    denoiser = Denoiser.load(pixart(tmp_path))
    assert denoiser.image_size == (16, 16)
    names = {"encoder_hidden_states", "encoder_attention_mask"}
    assert set(denoiser.encode_captions([PROMPT]).tensors) == names


def test_sizes_embedded_picture_by_picture_say_the_same(sized):
    condition = sized.encode_captions([PROMPT, "a fish"])
    sizes = {
        "resolution": torch.tensor([[20.0, 60.0], [10.0, 30.0]]),
        "aspect_ratio": torch.tensor([[0.5], [2.0]]),
    }
    ((module, ours),) = sized.family.faster(sized.network, [])
    given = {"batch_size": 2, "hidden_dtype": torch.float32, **sizes}
    with torch.no_grad():
        exact = module(torch.tensor([9, 9]), **given)
        torch.testing.assert_close(ours(torch.tensor([9, 9]), **given), exact)
    assert condition.tensors["resolution"].tolist() == [[16, 16], [16, 16]]


def test_adapters_are_those_of_peft(tmp_path):
    """Its pipeline loads none, and trainers save them so."""
    folder = pixart(tmp_path / "model")
    pipe = Denoiser.load(folder).pipe
    wanted = peft.LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False)
    adapted = peft.get_peft_model(pipe.transformer, wanted)
    adapted.save_pretrained(tmp_path / "lora")
    denoiser = Denoiser.load(folder, lora=tmp_path / "lora")
    assert denoiser.fingerprint() != Denoiser.load(folder).fingerprint()
    xt, condition = torch.randn(1, 4, 8, 8), denoiser.encode_captions([PROMPT])
    with torch.no_grad():
        ours = denoiser.predict(xt, 499, condition)
        torch.testing.assert_close(ours, Denoiser(pipe).predict(xt, 499, condition))
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="PixArtAlphaPipeline takes no LoRA adapters"):
        Denoiser.load(folder, lora=tmp_path / "lora.safetensors")
