"""Every family and prediction type comes out as eps; bad models are refused by name."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from PIL import Image
from support.conditions import words_of
from support.tiny import tiny_pipeline, tiny_unconditional

from headwater import Denoiser
from headwater.errors import ModelError
from headwater.scenes.dataset import pictures


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_predictions_agree_with_the_scheduler(denoiser, kind, monkeypatch):
    """x0hat equals what diffusers' DDPM step makes of the same output."""
    scheduler = DDPMScheduler.from_config(
        denoiser.pipe.scheduler.config, prediction_type=kind, clip_sample=False
    )
    monkeypatch.setattr(denoiser, "schedule", replace(denoiser.schedule, prediction=kind))
    xt, condition = torch.randn(1, *denoiser.latent_shape), denoiser.encode_captions(["a fish"])
    with torch.no_grad():
        raw = denoiser.network(xt, 400, **condition.tensors).sample
        ours = denoiser.schedule.clean(denoiser.predict(xt, 400, condition), xt, 400)
    theirs = scheduler.step(raw, 400, xt).pred_original_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_captions_are_encoded_as_the_pipeline_does(denoiser):
    ours = words_of(denoiser.encode_captions(["a red star", "", "a red star"]))
    theirs, empty = denoiser.pipe.encode_prompt("a red star", "cpu", 1, True, negative_prompt="")
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], empty[0])
    assert torch.equal(ours[0], ours[2])


def test_images_of_any_size_are_fitted(denoiser):
    scene = pictures("validation")[0].draw()
    wide = Image.new("RGB", (scene.width * 3, scene.height * 2), "white")
    wide.paste(scene.resize((scene.width * 2, scene.height * 2)), (scene.width // 2, 0))
    alike = denoiser.encode_images([scene.resize((scene.width * 2,) * 2), wide])
    assert alike.shape[1:] == denoiser.latent_shape
    torch.testing.assert_close(alike[0], alike[1], rtol=0.05, atol=0.05)


def test_decoding_is_the_autoencoders(denoiser):
    x0 = denoiser.encode_images([p.draw() for p in pictures("validation")[:2]])
    vae = denoiser.pipe.vae
    with torch.no_grad():
        pixels = vae.decode(x0 / vae.config.scaling_factor).sample.clamp(-1, 1)
    images = denoiser.decode(x0)
    assert images[1].size == denoiser.image_size[::-1]
    middle = images[1].getpixel((3, 5))
    assert middle == pytest.approx(((pixels[1, :, 5, 3] + 1) * 127.5).tolist(), abs=0.51)


def test_a_model_without_prompts(tmp_path):
    denoiser = Denoiser.load(tiny_unconditional(tmp_path))
    assert isinstance(denoiser.pipe, DDPMPipeline)
    assert not denoiser.conditional
    assert denoiser.encode_captions(["anything"]) is None
    x0 = denoiser.encode_images([pictures("validation")[0].draw()])
    assert denoiser.predict(x0, 10, None).shape == x0.shape
    assert denoiser.decode(x0)[0].size == denoiser.image_size[::-1]


def test_the_fingerprint_is_of_the_weights(tiny_model):
    one, other = Denoiser.load(tiny_model), Denoiser.load(tiny_model)
    assert one.fingerprint() == other.fingerprint()
    changed = Denoiser.load(tiny_model)
    with torch.no_grad():
        changed.network.conv_in.weight[0, 0, 0, 0] += 1e-6
    assert changed.fingerprint() != one.fingerprint()


def test_the_fingerprint_does_not_see_how_a_processor_rounds(tiny_model):
    """Alphas are cumulated in float32, which ends in other last bits without AVX, or on ARM."""
    denoiser = Denoiser.load(tiny_model)
    pipe = denoiser.pipe
    pipe.scheduler.alphas_cumprod = torch.nextafter(pipe.scheduler.alphas_cumprod, torch.ones(1))
    elsewhere = Denoiser(pipe)
    assert not torch.equal(elsewhere.schedule.a, denoiser.schedule.a)
    assert elsewhere.fingerprint() == denoiser.fingerprint()


SCHEDULES = {
    "another end": {"beta_end": 0.0121},
    "another beginning": {"beta_start": 0.00086},
    "pure noise at the end": {"rescale_betas_zero_snr": True},
    "another shape": {"beta_schedule": "linear"},
    "another number of timesteps": {"num_train_timesteps": 500},
    "betas of its own": {"trained_betas": [0.01] * 1000},
    "another prediction": {"prediction_type": "v_prediction"},
}


@pytest.mark.parametrize("changed", [*SCHEDULES, "changed by hand"])
def test_the_fingerprint_sees_another_schedule(tiny_model, changed):
    denoiser = Denoiser.load(tiny_model)
    before, pipe = denoiser.fingerprint(), denoiser.pipe
    if changed in SCHEDULES:
        config = dict(pipe.scheduler.config) | SCHEDULES[changed]
        pipe.scheduler = DDIMScheduler.from_config(config)
    else:
        pipe.scheduler.alphas_cumprod *= 0.999  # in no configuration
    assert Denoiser(pipe).fingerprint() != before


def test_the_fingerprint_sees_what_a_sampler_does_of_a_schedule(tiny_model):
    """PNDM keeps in its configuration what it does not know; Euler does as DDIM does."""
    pipe = Denoiser.load(tiny_model).pipe
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, rescale_betas_zero_snr=True)
    zero, config = Denoiser(pipe).fingerprint(), pipe.scheduler.config
    pipe.scheduler = PNDMScheduler.from_config(config)
    assert Denoiser(pipe).fingerprint() != zero
    pipe.scheduler = EulerDiscreteScheduler.from_config(config)
    assert Denoiser(pipe).fingerprint() == zero


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_networks_alone(tiny_model, dtype):
    """Weights and captions are halved; latents and predictions stay in float32."""
    denoiser = Denoiser.load(tiny_model, dtype=dtype)
    x0 = denoiser.encode_images([pictures("validation")[0].draw()])
    condition = denoiser.encode_captions(["a fish"])
    out = denoiser.predict(x0, 10, condition)
    assert {p.dtype for p in denoiser.network.parameters()} == {words_of(condition).dtype}
    assert words_of(condition).dtype == dtype
    assert x0.dtype == out.dtype == torch.float32
    assert denoiser.decode(x0)[0].size == (16, 16)


def test_unreadable_models_are_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot load the model"):
        Denoiser.load(tmp_path / "nowhere")
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="cannot load the model"):
        Denoiser.load(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
    with pytest.raises(ModelError, match="cannot load the model"):
        Denoiser.load(tmp_path)


def test_families_that_are_not_supported_are_named(denoiser):
    class TwoEncoders:
        unet = denoiser.network
        text_encoder_2 = None
        scheduler = denoiser.pipe.scheduler

    with pytest.raises(ModelError, match=r"TwoEncoders is not supported: it has a text_encoder_2"):
        Denoiser(TwoEncoders())


def test_networks_that_read_more_than_latents_are_refused(tmp_path):
    with pytest.raises(ModelError, match="reads more than the noisy latents"):
        Denoiser.load(tiny_pipeline(tmp_path / "inpainting", in_channels=9))
    with pytest.raises(ModelError, match="wants a class label"):
        Denoiser.load(tiny_pipeline(tmp_path / "classes", num_class_embeds=4))


def test_the_noise_schedule_is_part_of_the_model(tiny_model, tmp_path):
    denoiser = Denoiser.load(tiny_model)
    config = denoiser.pipe.scheduler.config
    denoiser.pipe.scheduler = type(denoiser.pipe.scheduler).from_config(config, beta_end=0.02)
    other = Denoiser(denoiser.pipe)
    assert other.fingerprint() != Denoiser.load(tiny_model).fingerprint()


def test_a_schedule_that_ends_in_pure_noise_stays_finite(tiny_model):
    pipe = Denoiser.load(tiny_model).pipe
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, rescale_betas_zero_snr=True)
    denoiser = Denoiser(pipe)
    xt = torch.randn(1, *denoiser.latent_shape)
    assert denoiser.schedule.clean(xt, xt, 999).isfinite().all()
