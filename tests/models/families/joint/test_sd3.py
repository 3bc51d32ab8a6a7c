"""Stable Diffusion 3 against the pipeline's own call, and which layers its sets name."""

import pytest
import torch
from support.pipeline_calls import first_call
from support.tiny_joint import sd3

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.models.families.joint.sd3 import Sd3

PROMPT = "a red star"


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(sd3(tmp_path_factory.mktemp("sd3") / "model"))


@pytest.mark.parametrize("t5", [True, False], ids=["three encoders", "without T5"])
def test_its_output_is_that_of_the_pipelines_own_call(tmp_path, t5):
    """Both halves, of pure noise, where sampling begins."""
    denoiser = Denoiser.load(sd3(tmp_path, t5=t5))
    assert isinstance(denoiser.family, Sd3) and denoiser.image_size == (16, 16)
    given, out = first_call(denoiser.pipe, denoiser.network, PROMPT, guidance_scale=5.0)
    assert given["timestep"].tolist() == [1000, 1000]
    with torch.no_grad():
        condition = denoiser.encode_captions(["", PROMPT])
        ours = denoiser.predict(given["hidden_states"], 999, condition)
    torch.testing.assert_close(ours, out, rtol=1e-5, atol=1e-6)
    assert (out[0] - out[1]).abs().max() > 1e-4


def test_every_timestep_is_the_schedulers(denoiser):
    """Sigma with its shift of 3, as diffusers' scheduler begins with, noisiest last."""
    theirs = type(denoiser.pipe.scheduler).from_config(denoiser.pipe.scheduler.config).sigmas
    torch.testing.assert_close(denoiser.schedule.s.float(), theirs.flip(0))
    xt, condition = torch.randn(1, 4, 8, 8), denoiser.encode_captions([PROMPT])
    with torch.no_grad():
        ours = denoiser.predict(xt, 299, condition)
        timestep = 1000 * theirs.flip(0)[[299]]
        exact = denoiser.network(xt, timestep=timestep, **condition.tensors).sample
    torch.testing.assert_close(ours, exact)


def test_latents_are_shifted_and_scaled(denoiser):
    vae, pixels = denoiser.pipe.vae, torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        exact = vae.encode(pixels).latent_dist.mean - vae.config.shift_factor
        ours = denoiser.family.to_latents(pixels)
        torch.testing.assert_close(ours, exact * vae.config.scaling_factor)
        back = denoiser.family.to_pixels(ours)
        torch.testing.assert_close(back, vae.decode(exact + vae.config.shift_factor).sample)


def test_words_are_what_the_text_is_projected_by(tmp_path):
    """Of 3.5 medium `attn2` is the picture's second attention to itself: no set of its own."""
    folder = sd3(tmp_path, dual_attention_layers=(0,), qk_norm="rms_norm")
    denoiser = Denoiser.load(folder)
    assert denoiser.default_parameters() == "words"
    named = set(denoiser.layers())
    assert named == {f"transformer_blocks.{i}.attn.add_{x}_proj" for i in (0, 1) for x in "kv"}
    assert any(".attn2." in name for name in denoiser.layers("attention"))
    assert named < set(denoiser.layers("attention")) < set(denoiser.layers("all"))


@pytest.mark.parametrize("resolution, right", [(12, True), (18, False)])
def test_resolutions(tmp_path, resolution, right):
    folder = sd3(tmp_path)
    if right:
        denoiser = Denoiser.load(folder, resolution=resolution)
        assert denoiser.latent_shape == (4, 6, 6)
        xt = torch.randn(1, 4, 6, 6)
        assert denoiser.predict(xt, 9, denoiser.encode_captions([PROMPT])).shape == xt.shape
        assert denoiser.fingerprint() != Denoiser.load(folder).fingerprint()
    else:
        with pytest.raises(ModelError, match=r"pictures of 18 x 18 .* takes multiples of 4"):
            Denoiser.load(folder, resolution=resolution)


def test_another_scheduler_is_refused(denoiser):
    from diffusers import DDIMScheduler

    pipe = Denoiser.load(denoiser.source).pipe
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(ModelError, match="its scheduler is a DDIMScheduler: give it a FlowMatchE"):
        Denoiser(pipe)
