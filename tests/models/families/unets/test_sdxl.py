"""Stable Diffusion XL: what it reads beside words, against the pipeline's own call."""

import pytest
import torch
from PIL import Image
from support.tiny_unets import refiner, sdxl

from headwater import Denoiser
from headwater.features.batch import encoded_batch
from headwater.features.gradcheck import self_check
from headwater.models.families.unets.sdxl import Sdxl
from headwater.models.fitting import fit_of, fitted

PROMPT = "a red star"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sdxl(tmp_path_factory.mktemp("sdxl") / "model")


@pytest.fixture(scope="module")
def denoiser(folder):
    return Denoiser.load(folder)


def first_call(pipe, **given):
    """What the pipeline hands to its network at the first step, and what that says."""
    calls = []

    def note(network, args, kwargs, out):
        calls.append((args, kwargs, out))

    hook = pipe.unet.register_forward_hook(note, with_kwargs=True)
    try:
        pipe(PROMPT, num_inference_steps=2, output_type="latent", **given)
    finally:
        hook.remove()
    (xt, t), _, out = calls[0]
    return xt, int(t), out[0]


def test_its_output_is_that_of_the_pipelines_own_call(denoiser):
    """Both halves: under the prompt, and unconditional."""
    assert isinstance(denoiser.family, Sdxl)
    xt, t, out = first_call(denoiser.pipe, guidance_scale=5.0, height=16, width=16)
    condition = denoiser.encode_captions(["", PROMPT])
    with torch.no_grad():
        ours = denoiser.predict(xt, t, condition)
    torch.testing.assert_close(ours, out, rtol=1e-5, atol=1e-6)
    assert (out[0] - out[1]).abs().max() > 1e-3
    assert not condition.tensors["encoder_hidden_states"][0].any()
    assert not condition.tensors["text_embeds"][0].any()


def test_an_empty_prompt_is_read_where_the_pipeline_says_so(tmp_path):
    denoiser = Denoiser.load(sdxl(tmp_path, force_zeros_for_empty_prompt=False))
    xt, t, out = first_call(denoiser.pipe, guidance_scale=5.0, height=16, width=16)
    with torch.no_grad():
        ours = denoiser.predict(xt, t, denoiser.encode_captions(["", PROMPT]))
    torch.testing.assert_close(ours, out, rtol=1e-5, atol=1e-6)


def test_a_training_picture_brings_its_own_size(denoiser):
    """As the pipeline has it for the same sizes; of several captions each is of its picture."""
    wide, small = Image.new("RGB", (60, 20), "red"), Image.new("RGB", (10, 10), "blue")
    batch = encoded_batch(denoiser, [wide, small], [[PROMPT, "a star"], ["a fish"]], ["a", "b"])
    assert batch.condition.tensors["time_ids"].tolist() == [
        [20, 60, 0, 16, 16, 16], [20, 60, 0, 16, 16, 16], [10, 10, 0, 0, 16, 16],
    ]  # fmt: skip
    xt, t, out = first_call(
        denoiser.pipe, guidance_scale=1.0, height=16, width=16, original_size=(20, 60),
        crops_coords_top_left=(0, 16), target_size=(16, 16),
    )  # fmt: skip
    with torch.no_grad():
        ours = denoiser.predict(xt, t, batch.condition[[0]])
        whole = denoiser.predict(xt, t, denoiser.encode_captions([PROMPT]))
    torch.testing.assert_close(ours, out, rtol=1e-5, atol=1e-6)
    assert (whole - out).abs().max() > 1e-5


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (16, 16), (35, 33)])
def test_what_was_cut_off_is_where_the_picture_lies(size):
    """A picture whose pixels are their own column and row."""
    image = Image.new("RGB", size)
    image.putdata([(4 * x, 4 * y, 0) for y in range(size[1]) for x in range(size[0])])
    fit = fit_of(image, (16, 16))
    part = fitted(image, fit.size)
    scale = 16 / min(size)
    x, y = (value / 4 for value in part.getpixel((8, 8))[:2])
    assert abs((x + 0.5) * scale - 8.5 - fit.cut[1]) <= 1 + scale
    assert abs((y + 0.5) * scale - 8.5 - fit.cut[0]) <= 1 + scale


def test_the_refiner(tmp_path):
    """It reads an aesthetic score in the place of the target size."""
    denoiser = Denoiser.load(refiner(tmp_path))
    xt, t, out = first_call(
        denoiser.pipe, image=Image.new("RGB", (16, 16), "red"), strength=1.0, guidance_scale=1.0
    )
    condition = denoiser.encode_captions([PROMPT])
    assert condition.tensors["time_ids"].tolist() == [[16, 16, 0, 0, 6]]
    with torch.no_grad():
        torch.testing.assert_close(denoiser.predict(xt, t, condition), out, rtol=1e-5, atol=1e-6)


def test_gradients_are_exact(denoiser):
    condition = denoiser.encode_captions([PROMPT, "a fish"])
    x0 = torch.randn(2, *denoiser.latent_shape)
    said = self_check(denoiser, denoiser.layers("all"), x0, condition)
    assert said.startswith("self-check: ")


def test_a_new_word_has_an_embedding_of_each_encoder(denoiser):
    """Read by both: the words' own embeddings under a new name say what the words said."""
    words = denoiser.family.words
    vector = words.initial("star")
    assert vector.shape == (32,)
    with words.reader("<new>", vector) as read:
        ours = read(["a red <new>"])
    exact = words.encode([PROMPT])
    for name, tensor in exact.tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor)
