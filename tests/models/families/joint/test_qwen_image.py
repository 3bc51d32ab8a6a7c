"""Qwen-Image against the pipeline's own call: its template, its mask, latents as films."""

import diffusers
import pytest
import torch
from support.pipeline_calls import first_call
from support.tiny_joint import qwen_image
from support.tiny_language import LIMIT

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.models.families.joint.qwen_image import QwenImage

PROMPT = "a red star"
LONG = "a large red star beside a small blue fish on a plain background"
SIZE = {"height": 16, "width": 16, "max_sequence_length": LIMIT}


class Processor:
    """Of pictures, in the place of transformers' own."""


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(qwen_image(tmp_path_factory.mktemp("qwen") / "model"), resolution=16)


@pytest.mark.parametrize("prompt", [PROMPT, "", [PROMPT, LONG]], ids=["one", "empty", "two"])
def test_its_output_is_that_of_the_pipelines_own_call(denoiser, prompt):
    """Of one prompt without a mask; of several with one."""
    assert isinstance(denoiser.family, QwenImage) and denoiser.latent_shape == (4, 8, 8)
    pipe, texts = denoiser.pipe, [prompt] if isinstance(prompt, str) else prompt
    given, out = first_call(pipe, denoiser.network, prompt, **SIZE)
    assert given["timestep"].tolist() == [1] * len(texts)
    assert (given["encoder_hidden_states_mask"] is None) == (len(texts) == 1)
    xt = pipe._unpack_latents(given["hidden_states"], 16, 16, 2)[:, :, 0]
    with torch.no_grad():
        ours = denoiser.predict(xt, 999, denoiser.encode_captions(texts))
    exact = pipe._unpack_latents(out, 16, 16, 2)[:, :, 0]
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)


def test_a_row_says_the_same_in_every_batch(denoiser):
    condition = denoiser.encode_captions([PROMPT, "", LONG])
    xt = torch.randn(1, *denoiser.latent_shape).expand(3, -1, -1, -1)
    with torch.no_grad():
        rows = denoiser.predict(xt.contiguous(), 499, condition)
        for i in range(3):
            alone = denoiser.predict(xt[i : i + 1], 499, condition[[i]])
            torch.testing.assert_close(rows[i : i + 1], alone, rtol=1e-5, atol=1e-5)
    assert (rows[0] - rows[1]).abs().max() > 1e-4


def test_latents_are_films_of_one_frame(denoiser):
    """With a mean and a deviation of each channel, as the pipeline's decoding has them."""
    vae, pixels = denoiser.pipe.vae, torch.rand(2, 3, 16, 16) * 2 - 1
    mean = torch.tensor([-0.5, 0.0, 0.25, 0.5])[:, None, None]
    std = torch.tensor([2.0, 1.5, 1.0, 0.5])[:, None, None]
    with torch.no_grad():
        plain = vae.encode(pixels[:, :, None]).latent_dist.mean[:, :, 0]
        x0 = denoiser.family.to_latents(pixels)
        torch.testing.assert_close(x0, (plain - mean) / std)
        own = vae.decode(plain[:, :, None]).sample[:, :, 0]
        torch.testing.assert_close(denoiser.family.to_pixels(x0), own)


def test_editing_is_refused(denoiser):
    pipe = diffusers.QwenImageEditPipeline(**denoiser.pipe.components, processor=Processor())
    with pytest.raises(ModelError, match="QwenImageEditPipeline is not supported: it has a proces"):
        Denoiser(pipe)


def test_words_are_what_the_text_is_projected_by(denoiser):
    assert set(denoiser.layers()) == {f"transformer_blocks.0.attn.add_{x}_proj" for x in "kv"}
    assert all(".attn." in name for name in denoiser.layers("attention"))


def test_its_own_size_is_the_pipelines(denoiser):
    assert Denoiser(denoiser.pipe).image_size == (256, 256)  # 128 latents of two pixels


def test_the_template_is_not_counted(denoiser):
    """What is said to be read is, and no word more."""
    long = "a" + " red" * LIMIT
    read, lost = denoiser.cut_prompts([long])[long]
    assert denoiser.encode_captions([""]).tensors["mask"].sum() == 5  # what follows a prompt
    assert read + lost == long and len(denoiser.pipe.tokenizer(read).input_ids) == LIMIT
    prompts = [long, f"{read} fish", f"{read.removesuffix(' red')} fish"]
    rows = denoiser.encode_captions(prompts).tensors["words"]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_the_template_is_part_of_the_model(denoiser):
    before = denoiser.encoders_fingerprint()
    other = Denoiser.load(denoiser.source, resolution=16)
    assert other.encoders_fingerprint() == before
    other = Denoiser.load(denoiser.source, resolution=16)
    other.pipe.prompt_template_encode = "{}"
    assert other.encoders_fingerprint() != before


def test_a_new_word_is_read_in_its_place(denoiser):
    words = denoiser.family.words
    with words.reader("<new>", words.initial(" star")) as read:
        ours = read(["a red<new>"])
    exact = words.encode([PROMPT])
    torch.testing.assert_close(ours.tensors["words"], exact.tensors["words"])
    assert torch.equal(ours.tensors["mask"], exact.tensors["mask"])
