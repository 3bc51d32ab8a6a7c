"""AuraFlow against the pipeline's own call, and the size of pictures that it has places for."""

import pytest
import torch
from support.pipeline_calls import first_call
from support.tiny_joint import aura_flow

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.gradients.parameters import left_out
from headwater.models.families.joint.aura_flow import AuraFlow
from headwater.scenes.pipeline import MAX_TOKENS

PROMPT = "a red star"
LONG = "a large red star beside a small blue fish on a plain background"
SIZE = {"height": 16, "width": 16, "max_sequence_length": MAX_TOKENS}


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(aura_flow(tmp_path_factory.mktemp("aura") / "model"))


def test_its_output_is_that_of_the_pipelines_own_call(denoiser):
    """Both halves: unconditional, and under the prompt."""
    assert isinstance(denoiser.family, AuraFlow) and denoiser.image_size == (16, 16)
    given, out = first_call(denoiser.pipe, denoiser.network, PROMPT, guidance_scale=3.5, **SIZE)
    assert given["timestep"].tolist() == [1, 1]
    with torch.no_grad():
        ours = denoiser.predict(given[0], 999, denoiser.encode_captions(["", PROMPT]))
    torch.testing.assert_close(ours, out, rtol=1e-5, atol=1e-6)
    assert (out[0] - out[1]).abs().max() > 1e-4


def test_a_row_says_the_same_in_every_batch(denoiser):
    condition = denoiser.encode_captions([PROMPT, "", LONG])
    xt = torch.randn(3, *denoiser.latent_shape)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        for i, text in enumerate([PROMPT, "", LONG]):
            alone = denoiser.predict(xt[i : i + 1], 499, denoiser.encode_captions([text]))
            torch.testing.assert_close(rows[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_time_is_sigma(denoiser):
    """With the scheduler's shift."""
    theirs = type(denoiser.pipe.scheduler).from_config(denoiser.pipe.scheduler.config).sigmas
    torch.testing.assert_close(denoiser.schedule.s.float(), theirs.flip(0))
    xt, condition = torch.randn(1, *denoiser.latent_shape), denoiser.encode_captions([PROMPT])
    with torch.no_grad():
        ours = denoiser.predict(xt, 299, condition)
        time = theirs.flip(0)[[299]]
        exact = denoiser.network(xt, timestep=time, **condition.tensors).sample
    torch.testing.assert_close(ours, exact)


def test_pictures_larger_than_its_places_are_refused(denoiser):
    """36 places, of two latents of two pixels."""
    assert Denoiser(denoiser.pipe, resolution=24).latent_shape == (4, 12, 12)
    with pytest.raises(ModelError, match=r"places for 24 pixels at most: 28 \(--resolution"):
        Denoiser(denoiser.pipe, resolution=28)


def test_words_are_those_of_the_double_blocks(denoiser):
    """Single blocks read words and picture as one."""
    named = {f"joint_transformer_blocks.0.attn.add_{x}_proj" for x in "kv"}
    assert set(denoiser.layers()) == named
    assert any(name.startswith("single") for name in denoiser.layers("attention"))


def test_places_and_registers_are_attributed(denoiser):
    assert {"pos_embed.pos_embed", "register_tokens"} <= set(denoiser.layers("all"))
    assert left_out(denoiser.network) == []


def test_a_new_word_is_read_in_its_place(denoiser):
    words = denoiser.family.words
    with words.reader("<new>", words.initial("star")) as read:
        ours = read(["a red <new>"])
    exact = words.encode([PROMPT]).tensors["encoder_hidden_states"]
    torch.testing.assert_close(ours.tensors["encoder_hidden_states"], exact)
