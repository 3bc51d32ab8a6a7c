"""Latent consistency models, which are told of a guidance, and latents that are quantised."""

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from support.exact_gradients import layer_errors
from support.pipeline_calls import first_call
from support.tiny_parts import LATENT, awake, quantising_autoencoder, unet
from support.tiny_unets import lcm, ldm, sdxl, text_time

from headwater import Denoiser, Image, build_index, load_dataset
from headwater.models.families.unets.unet import Unet

PROMPT = "a red star"


# --- told of a guidance ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def consistent(tmp_path_factory):
    return Denoiser.load(lcm(tmp_path_factory.mktemp("lcm") / "model"))


def as_called(denoiser, **given):
    """Largest difference to the pipeline's own call at its first step, and what t was."""
    inputs, out = first_call(denoiser.pipe, denoiser.network, PROMPT, height=16, width=16, **given)
    with torch.no_grad():
        ours = denoiser.predict(inputs[0], int(inputs[1]), denoiser.encode_captions([PROMPT]))
    torch.testing.assert_close(ours, out, rtol=1e-5, atol=1e-6)
    return inputs


def test_its_output_is_that_of_the_pipelines_own_call(consistent):
    """With the guidance that the call takes where nothing is said: 8.5."""
    assert isinstance(consistent.family, Unet)
    told = as_called(consistent)["timestep_cond"]
    assert told.shape == (1, 8) and torch.equal(told, as_called(consistent)["timestep_cond"])
    assert consistent.family.network_facts() == {"guidance": 8.5}


def test_the_guidance_is_that_of_the_pipeline(consistent):
    """Stable Diffusion's own call tells another, and so do other families; rows depend on it."""
    pipe = consistent.pipe
    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet")}
    plain = StableDiffusionPipeline(
        **parts, scheduler=pipe.scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    other = Denoiser(plain)
    as_called(other)
    assert other.family.network_facts() == {"guidance": 7.5}
    assert other.fingerprint() != Denoiser(pipe).fingerprint()


def test_it_is_told_another(consistent):
    told = Denoiser(consistent.pipe, distilled_guidance=2)
    as_called(told, guidance_scale=2.0)
    assert told.family.network_facts() == {"guidance": 2.0}


def test_the_larger_is_told_too(tmp_path):
    pipe = Denoiser.load(sdxl(tmp_path)).pipe
    torch.manual_seed(0)
    network = unet(cross_attention_dim=32, time_cond_proj_dim=8, **text_time(6))
    parts = {name: part for name, part in pipe.components.items() if name not in _OTHERS}
    larger = Denoiser(
        StableDiffusionXLPipeline(**parts, unet=awake(network), add_watermarker=False)
    )
    as_called(larger)
    assert larger.family.network_facts() == {"guidance": 5.0}


_OTHERS = ("unet", "image_encoder", "feature_extractor")


def test_gradients_are_those_of_autograd(tmp_path):
    denoiser = Denoiser.load(lcm(tmp_path), dtype=torch.float64)
    layers = denoiser.layers("all")
    assert "time_embedding.cond_proj" in layers
    xt = torch.randn(2, *denoiser.latent_shape).double()
    condition = denoiser.encode_captions([PROMPT, "a fish"])
    errors = layer_errors(denoiser, layers, xt, 499, condition)
    assert max(errors.values()) <= 1e-8


def test_its_schedule_is_that_of_its_scheduler(consistent):
    assert isinstance(consistent.pipe.scheduler, LCMScheduler)
    alpha_bar = consistent.pipe.scheduler.alphas_cumprod
    torch.testing.assert_close(consistent.schedule.alpha_bar.float(), alpha_bar)


# --- quantised ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    return Denoiser.load(ldm(tmp_path_factory.mktemp("ldm") / "model"))


def test_pictures_are_its_autoencoders(quantised):
    """Its decoder rounds to what it knows; what the network learned are the latents before."""
    vae, pixels = quantised.pipe.vqvae, torch.rand(1, 3, 16, 16) * 2 - 1
    assert quantised.image_size == (16, 16) and not quantised.conditional
    with torch.no_grad():
        exact = vae.encode(pixels).latents
        ours = quantised.family.to_latents(pixels)
        torch.testing.assert_close(ours, exact * 0.5)
        torch.testing.assert_close(quantised.family.to_pixels(ours), vae.decode(exact).sample)


def test_what_its_pipeline_draws_is_what_it_predicts(quantised):
    calls = []
    hook = quantised.network.register_forward_hook(lambda *call: calls.append(call))
    quantised.pipe(num_inference_steps=2, output_type="np")
    hook.remove()
    _, (xt, t), out = calls[0]
    with torch.no_grad():
        torch.testing.assert_close(quantised.predict(xt, int(t), None), out.sample)


def test_it_is_asked(quantised, tiny_images, tmp_path):
    options = {"method": "concept-trak-unguided", "timesteps": 2, "dim": 64}
    data = load_dataset(tiny_images).first(4)
    index = build_index(quantised, data, tmp_path / "index", **options)
    for question in (Image(file=tiny_images / "train-00000.png"), Image(steps=2)):
        assert index.attribute(question).scores.std() > 0


def test_its_autoencoder_is_part_of_what_it_is(quantised):
    before = quantised.encoders_fingerprint()
    pipe = Denoiser.load(quantised.source).pipe
    pipe.vqvae = quantising_autoencoder()
    assert Denoiser(pipe).encoders_fingerprint() != before
    assert Denoiser(pipe).latent_shape == (4, LATENT, LATENT)
