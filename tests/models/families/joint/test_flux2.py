"""Flux.2 against the pipeline's own call: packed and normalised latents, padding that is read."""

import copy

import diffusers
import pytest
import torch
from support.pipeline_calls import first_call
from support.tiny_joint import klein
from support.tiny_language import LIMIT

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.models.families.joint.flux2 import GUIDANCE, Flux2

PROMPT = "a red star"
SIZE = {"height": 16, "width": 16, "max_sequence_length": LIMIT}


class Processor:
    """A tokenizer with a template of its own, as processors of pictures and words have it."""

    chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>{% endfor %}"
    )

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def apply_chat_template(self, messages, **options):
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, **options
        )


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(klein(tmp_path_factory.mktemp("klein") / "model"), resolution=16)


def unpacked(tokens):
    return tokens.transpose(1, 2).reshape(-1, 16, 4, 4)


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_its_output_is_that_of_the_pipelines_own_call(denoiser, prompt):
    """Unconditional it reads the empty prompt."""
    assert isinstance(denoiser.family, Flux2) and denoiser.latent_shape == (16, 4, 4)
    given, out = first_call(denoiser.pipe, denoiser.network, prompt, **SIZE)
    assert given["timestep"].tolist() == [1] and given["guidance"] is None
    with torch.no_grad():
        condition = denoiser.encode_captions([prompt])
        ours = denoiser.predict(unpacked(given["hidden_states"]), 999, condition)
    torch.testing.assert_close(ours, unpacked(out), rtol=1e-5, atol=1e-6)


def test_latents_are_packed_and_normalised_as_by_the_pipeline(denoiser):
    pipe, pixels = denoiser.pipe, torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        x0 = denoiser.family.to_latents(pixels)
        torch.testing.assert_close(x0, pipe._encode_vae_image(pixels, None))
        plain = pipe.vae.encode(pixels).latent_dist.mean
        torch.testing.assert_close(denoiser.family.to_pixels(x0), pipe.vae.decode(plain).sample)


def test_a_row_says_the_same_in_every_batch(denoiser):
    condition = denoiser.encode_captions([PROMPT, "", "a large red star beside a small blue fish"])
    xt = torch.randn(1, *denoiser.latent_shape).repeat(3, 1, 1, 1)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        for i in range(3):
            alone = denoiser.predict(xt[i : i + 1], 499, condition[[i]])
            torch.testing.assert_close(rows[i : i + 1], alone, rtol=1e-5, atol=1e-5)
    assert (rows[0] - rows[1]).abs().max() > 1e-4


def test_the_guidance_it_reads_is_part_of_the_model(denoiser, tmp_path):
    """Of a distilled network; klein's has none."""
    assert denoiser.family.network_facts() == {}
    guided = Denoiser.load(klein(tmp_path, guided=True), resolution=16)
    assert guided.family.network_facts() == {"guidance": GUIDANCE}
    condition = guided.encode_captions([PROMPT])
    xt, other = (
        torch.randn(1, *guided.latent_shape),
        Denoiser(guided.pipe, resolution=16, distilled_guidance=1.0),
    )
    with torch.no_grad():
        ours, others = (each.predict(xt, 499, condition) for each in (guided, other))
    assert (others - ours).abs().max() > 1e-5
    assert other.fingerprint() != guided.fingerprint()
    with pytest.raises(
        ModelError, match=r"^--distilled-guidance 1.0 is for pipelines whose network"
    ):
        Denoiser(denoiser.pipe, resolution=16, distilled_guidance=1.0)


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    """Dev's pipeline, of klein's parts but for a guided network and a processor."""
    folder = klein(tmp_path_factory.mktemp("dev") / "model", guided=True, layers=30)
    parts = Denoiser.load(folder, resolution=16).pipe.components
    processor = Processor(parts["tokenizer"])
    pipe = diffusers.Flux2Pipeline(**{**parts, "tokenizer": processor})
    pipe.system_message = "Describe the image."  # the usual one is longer than our tokenizers take
    return Denoiser(pipe, resolution=16)


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_the_output_of_dev_is_that_of_the_pipelines_own_call(dev, prompt):
    given, out = first_call(dev.pipe, dev.network, prompt, **SIZE)
    assert given["guidance"].tolist() == [GUIDANCE]
    with torch.no_grad():
        condition = dev.encode_captions([prompt])
        ours = dev.predict(unpacked(given["hidden_states"]), 999, condition)
    torch.testing.assert_close(ours, unpacked(out), rtol=1e-5, atol=1e-6)


def test_the_message_of_dev_counts_and_is_part_of_the_model(dev):
    long = "a" + " red" * LIMIT
    read, lost = dev.cut_prompts([long])[long]
    assert read + lost == long and dev.cut_prompts([read]) == {}
    prompts = [long, f"{read} fish", f"{read.removesuffix(' red')} fish"]
    rows = dev.encode_captions(prompts).tensors["words"]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    other = Denoiser(copy.copy(dev.pipe), resolution=16)
    other.pipe.system_message = "Describe the color."
    assert other.encoders_fingerprint() != dev.encoders_fingerprint()


def test_a_processor_learns_a_word(dev):
    """A copy of it does."""
    words = dev.family.words
    with words.reader("<new>", words.initial(" star")) as read:
        ours = read(["a red<new>"])
    exact = words.encode([PROMPT])
    torch.testing.assert_close(ours.tensors["words"], exact.tensors["words"])
    assert "<new>" not in words.names()


def test_words_are_those_of_the_double_blocks(denoiser):
    """Single blocks read words and picture as one."""
    assert set(denoiser.layers()) == {f"transformer_blocks.0.attn.add_{x}_proj" for x in "kv"}
    assert any(name.startswith("single") for name in denoiser.layers("attention"))


def test_its_own_size_is_the_pipelines(denoiser):
    assert Denoiser(denoiser.pipe).image_size == (256, 256)  # 128 latents of two pixels


def test_what_a_long_prompt_loses_counts_the_template(denoiser):
    long = "a" + " red" * LIMIT
    read, lost = denoiser.cut_prompts([long])[long]
    assert read + lost == long and denoiser.cut_prompts([read]) == {}
    prompts = [long, f"{read} fish", f"{read.removesuffix(' red')} fish"]
    rows = denoiser.encode_captions(prompts).tensors["words"]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_a_new_word_is_read_in_its_place(denoiser):
    words = denoiser.family.words
    with words.reader("<new>", words.initial(" star")) as read:
        ours = read(["a red<new>"])
    exact = words.encode([PROMPT])
    torch.testing.assert_close(ours.tensors["words"], exact.tensors["words"])
