"""Lumina 2 against the pipeline's own call: time turned around, a message before a prompt."""

import pytest
import torch
from support.pipeline_calls import network_calls
from support.tiny_joint import lumina2
from support.tiny_language import LIMIT

from headwater import Denoiser
from headwater.models.families.joint.lumina2 import Lumina2

PROMPT = "a red star"
LONG = "a large red star on a small blue fish with a plain background"
# for a latent the pipeline takes 8 pixels, whatever the autoencoder
SIZE = {"height": 64, "width": 64, "max_sequence_length": LIMIT}


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(lumina2(tmp_path_factory.mktemp("lumina") / "model"), resolution=16)


def test_its_output_is_that_of_the_pipelines_own_call(denoiser):
    """Under the prompt, and unconditional, where sampling begins: there its time is 0."""
    assert isinstance(denoiser.family, Lumina2) and denoiser.latent_shape == (4, 8, 8)
    calls = network_calls(denoiser.pipe, denoiser.network, PROMPT, guidance_scale=4.0, **SIZE)
    for text, (given, out) in zip([PROMPT, ""], calls, strict=False):
        assert given["timestep"].tolist() == [0]
        with torch.no_grad():
            condition = denoiser.encode_captions([text])
            ours = denoiser.predict(given["hidden_states"], 999, condition)
        torch.testing.assert_close(ours, -out, rtol=1e-5, atol=1e-6)
    assert (calls[0][1] - calls[1][1]).abs().max() > 1e-4


def test_a_row_says_the_same_in_every_batch(denoiser):
    condition = denoiser.encode_captions([PROMPT, "", LONG])
    assert condition.tensors["mask"].sum(1).unique().numel() == 3
    xt = torch.randn(3, *denoiser.latent_shape)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        for i, text in enumerate([PROMPT, "", LONG]):
            alone = denoiser.encode_captions([text])
            assert torch.equal(alone.tensors["mask"], condition.tensors["mask"][[i]])
            out = denoiser.predict(xt[i : i + 1], 499, alone)
            torch.testing.assert_close(rows[i : i + 1], out, rtol=1e-5, atol=1e-5)


def test_time_is_turned_around(denoiser):
    """At a timestep in between: 1 - sigma, with the scheduler's shift."""
    xt, condition = torch.randn(1, *denoiser.latent_shape), denoiser.encode_captions([PROMPT])
    theirs = type(denoiser.pipe.scheduler).from_config(denoiser.pipe.scheduler.config).sigmas
    torch.testing.assert_close(denoiser.schedule.s.float(), theirs.flip(0))
    words, mask = condition.tensors["words"], condition.tensors["mask"]
    with torch.no_grad():
        ours = denoiser.predict(xt, 299, condition)
        exact = denoiser.network(xt, 1 - theirs.flip(0)[[299]], words, mask).sample
    torch.testing.assert_close(ours, -exact)


def test_words_are_refined_apart(denoiser):
    assert denoiser.default_parameters() == "words"
    assert all(name.startswith("context_refiner.0.") for name in denoiser.layers())
    parts = {name.partition(".attn.")[0] for name in denoiser.layers("attention")}
    assert parts == {"noise_refiner.0", "context_refiner.0", "layers.0"}


def test_what_a_long_prompt_loses_counts_the_message(denoiser):
    long = "a" + " red" * LIMIT
    read, lost = denoiser.cut_prompts([long])[long]
    assert read + lost == long and denoiser.cut_prompts([read]) == {}
    prompts = [long, f"{read} fish", f"{read.removesuffix(' red')} fish"]
    rows = denoiser.encode_captions(prompts).tensors["words"]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_the_message_is_part_of_the_model(denoiser):
    other = Denoiser.load(denoiser.source, resolution=16)
    other.pipe.system_prompt = "Draw."
    assert other.encoders_fingerprint() != denoiser.encoders_fingerprint()


def test_a_new_word_is_read_in_its_place(denoiser):
    words = denoiser.family.words
    with words.reader("<new>", words.initial(" star")) as read:
        ours = read(["a red<new>", ""])
    exact = words.encode([PROMPT, ""])
    torch.testing.assert_close(ours.tensors["words"], exact.tensors["words"])
    assert torch.equal(ours.tensors["mask"], exact.tensors["mask"])
