"""HunyuanDiT against the pipeline's own call: two encoders with masks, sizes, places of tokens."""

import diffusers
import peft
import pytest
import torch
from PIL import Image
from support.pipeline_calls import first_call
from support.tiny_cross import hunyuan_dit

from headwater import Denoiser
from headwater.features.batch import encoded_batch
from headwater.features.short_twin import short_twin
from headwater.gradients.parameters import left_out
from headwater.models.families.cross.hunyuan_dit import HunyuanDiT
from headwater.models.patches import for_gradients

PROMPT = "a red star"


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(hunyuan_dit(tmp_path_factory.mktemp("hunyuan") / "model"))


def autoencoder():
    """At an eighth of the size of pictures, which its pipeline takes for granted."""
    return diffusers.AutoencoderKL(
        latent_channels=4,
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


@pytest.mark.parametrize("sizes", [True, False], ids=["version 1.1", "version 1.2"])
def test_its_output_is_that_of_the_pipelines_own_call(tmp_path, sizes):
    """Both halves: unconditional, and under the prompt; with four blocks, of which one skips."""
    settings = {"use_style_cond_and_image_meta_size": sizes, "num_layers": 4}
    denoiser = Denoiser.load(hunyuan_dit(tmp_path, autoencoder(), **settings))
    assert isinstance(denoiser.family, HunyuanDiT) and denoiser.image_size == (64, 64)
    more = {"use_resolution_binning": False, "original_size": (64, 64), "guidance_scale": 5.0}
    given, out = first_call(denoiser.pipe, denoiser.network, PROMPT, **more)
    condition = denoiser.encode_captions(["", PROMPT])
    with torch.no_grad():
        ours = denoiser.predict(given[0], int(given[1][0]), condition)
    torch.testing.assert_close(ours, out[:, :4], rtol=1e-5, atol=1e-6)
    assert (out[0] - out[1]).abs().max() > 1e-3
    assert ("image_meta_size" in condition.tensors) == sizes
    assert any(".skip_linear" in name for name in denoiser.layers("all"))


def test_a_row_is_the_same_alone_and_in_a_batch(denoiser):
    condition = denoiser.encode_captions([PROMPT, "a fish on a wavy background", ""])
    xt = torch.randn(3, *denoiser.latent_shape)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        alone = [denoiser.predict(xt[[i]], 499, condition[[i]]) for i in range(3)]
    torch.testing.assert_close(rows, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_a_training_picture_brings_its_own_sizes(denoiser):
    """As the pipeline has them for the same: original, target, and where it was cut."""
    wide, small = Image.new("RGB", (60, 20), "red"), Image.new("RGB", (10, 10), "blue")
    batch = encoded_batch(denoiser, [wide, small], [[PROMPT], ["a fish"]], ["a", "b"])
    assert batch.condition.tensors["image_meta_size"].tolist() == [
        [20, 60, 16, 16, 0, 16], [10, 10, 16, 16, 0, 0],
    ]  # fmt: skip
    with torch.no_grad():
        ours = denoiser.predict(batch.x0, 499, batch.condition)
        whole = denoiser.predict(batch.x0, 499, denoiser.encode_captions([PROMPT, "a fish"]))
    assert (ours - whole).abs().flatten(1).amax(1).min() > 1e-4


def test_its_layers_called_row_by_row_say_the_same(denoiser):
    xt, condition = torch.randn(2, 4, 8, 8), denoiser.encode_captions([PROMPT, "a fish"])
    with torch.no_grad():
        exact = denoiser.predict(xt, 499, condition)
        with for_gradients(denoiser, []):
            ours = denoiser.predict(xt, 499, condition)
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)


def test_adapters_that_the_network_never_calls_stay_so(tmp_path):
    """Its pool takes the weights of its layers, and passes over adapters of them."""
    denoiser = Denoiser.load(hunyuan_dit(tmp_path))
    wanted = peft.LoraConfig(r=2, target_modules=["k_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(wanted, denoiser.network)
    test_its_layers_called_row_by_row_say_the_same(denoiser)


def test_words_are_keys_and_values_of_attention_to_them(denoiser):
    assert denoiser.default_parameters() == "words"
    assert set(denoiser.layers()) == {f"blocks.0.attn2.to_{x}" for x in "kv"}
    attention = {name.split(".")[2] for name in denoiser.layers("attention")}
    assert attention == {"attn1", "attn2"}
    pooled = ["time_extra_emb.pooler.positional_embedding"]  # where a batch is the second axis
    assert [each.name for each in left_out(denoiser.network)] == pooled


def test_a_copy_for_the_self_check_has_all_blocks(tmp_path):
    """Later ones read what earlier ones said, so that none can be left out."""
    denoiser = Denoiser.load(hunyuan_dit(tmp_path, num_layers=4))
    xt, condition = torch.randn(1, 4, 8, 8), denoiser.encode_captions([PROMPT])
    twin = short_twin(denoiser.network, large=0)
    with torch.no_grad():
        ours = denoiser.family.forward(twin, xt, 499, condition)
        torch.testing.assert_close(ours, denoiser.predict(xt, 499, condition))


def test_a_new_word_is_read_by_both_encoders(denoiser):
    words = denoiser.family.words
    assert words.initial("star").shape == (32,)
    with words.reader("<new>", words.initial("star")) as read:
        ours = read(["a red <new>"])
    for name, tensor in words.encode([PROMPT]).tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor)
