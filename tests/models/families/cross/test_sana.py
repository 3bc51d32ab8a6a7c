"""Sana against the pipeline's own call: the instruction before a prompt, masks, its autoencoder."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from support.pipeline_calls import first_call
from support.tiny_cross import sana

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.gradients.parameters import left_out
from headwater.models.families.cross.sana import Sana

PROMPT = "a red star"


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(sana(tmp_path_factory.mktemp("sana") / "model"))


@pytest.mark.parametrize("variances", [False, True])
def test_its_output_is_that_of_the_pipelines_own_call(tmp_path, variances):
    """Both halves, with a scheduler that does not round timesteps; the empty prompt goes bare."""
    folder = sana(tmp_path, out_channels=8 if variances else 4)
    denoiser = Denoiser.load(folder, resolution=32)  # which its call takes multiples of
    assert isinstance(denoiser.family, Sana) and denoiser.latent_shape == (4, 16, 16)
    denoiser.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    more = {"height": 32, "width": 32, "use_resolution_binning": False, "clean_caption": False}
    given, out = first_call(denoiser.pipe, denoiser.network, PROMPT, guidance_scale=4.5, **more)
    assert given["timestep"].tolist() == [500, 500]  # half of 1000, in its own scale
    with torch.no_grad():
        ours = denoiser.predict(given[0], 999, denoiser.encode_captions(["", PROMPT]))
    torch.testing.assert_close(ours, out[:, :4], rtol=1e-5, atol=1e-6)
    assert (out[0] - out[1]).abs().max() > 1e-4


def test_its_schedule_is_that_of_its_scheduler(denoiser):
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas
    torch.testing.assert_close(denoiser.schedule.s.float(), theirs.flip(0))


def test_a_row_is_the_same_alone_and_in_a_batch(denoiser):
    texts = [PROMPT, "", "a fish on a wavy background", ""]
    condition = denoiser.encode_captions(texts)
    assert condition.tensors["encoder_attention_mask"].shape == (4, 300)
    xt = torch.randn(4, *denoiser.latent_shape)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        alone = [
            denoiser.predict(xt[[i]], 499, denoiser.encode_captions([text]))
            for i, text in enumerate(texts)
        ]
    torch.testing.assert_close(rows, torch.cat(alone), rtol=1e-5, atol=2e-5)


def test_pictures_are_its_autoencoders(denoiser):
    vae, pixels = denoiser.pipe.vae, torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        exact = vae.encode(pixels).latent
        ours = denoiser.family.to_latents(pixels)
        torch.testing.assert_close(ours, exact * vae.config.scaling_factor)
        torch.testing.assert_close(denoiser.family.to_pixels(ours), vae.decode(exact).sample)


def test_a_new_word_is_scaled_like_all(denoiser):
    """Its language model scales embeddings; the words' own under a new name say the same."""
    words = denoiser.family.words
    with words.reader("<new>", words.initial("star")) as read:
        ours = read(["a red <new>"])
    exact = words.encode([PROMPT])
    for name, tensor in exact.tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor)


def test_being_asked_does_not_change_what_it_is(denoiser):
    """The pipeline turns its tokenizer's padding round when it is first called."""
    fresh = Denoiser.load(denoiser.source)
    fresh.pipe.tokenizer.padding_side = "left"
    fresh = Denoiser(fresh.pipe)
    denoiser.encode_captions([PROMPT])
    assert fresh.encoders_fingerprint() == Denoiser(denoiser.pipe).encoders_fingerprint()


def test_what_it_is_told_is_part_of_what_it_is(denoiser, monkeypatch):
    before = Denoiser(denoiser.pipe).encoders_fingerprint()
    place = "headwater.models.families.cross.sana._instruction"
    monkeypatch.setattr(place, lambda pipe: ["Paint: "])
    assert Denoiser(denoiser.pipe).encoders_fingerprint() != before


def test_words_are_keys_and_values_of_attention_to_them(denoiser):
    assert denoiser.image_size == (16, 16) and denoiser.default_parameters() == "words"
    assert set(denoiser.layers()) == {f"transformer_blocks.0.attn2.to_{x}" for x in "kv"}
    tables = ["scale_shift_table", "transformer_blocks.0.scale_shift_table"]
    assert list(denoiser.layers("table")) == tables and left_out(denoiser.network) == []


def test_the_distilled_one_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"^SanaPipeline is not supported: .* \(guidance_embeds\)"):
        Denoiser.load(sana(tmp_path, guidance_embeds=True))
