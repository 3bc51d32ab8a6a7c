"""Other pipelines of the same flow transformers: which are taken, which are refused, and why."""

import diffusers
import pytest
import torch
from PIL import Image
from support.pipeline_calls import first_call
from support.tiny_joint import chroma, flux, qwen_image, sd3, z_image
from support.tiny_language import LIMIT

from headwater import Denoiser
from headwater.errors import ModelError

PROMPT, PICTURE = "a red star", Image.new("RGB", (16, 16), "blue")
WHOLE = {"image": PICTURE, "strength": 1.0}  # nothing of the picture is left at the first step
INPAINTED = {**WHOLE, "mask_image": Image.new("L", (16, 16), 255)}
SIZE = {"height": 16, "width": 16}


def as_it_is(pipe, x):
    return x


def packed(pipe, x):
    return pipe._unpack_latents(x, 16, 16, 2)


def packed_film(pipe, x):
    return packed(pipe, x)[:, :, 0]


def listed(pipe, x):
    return torch.stack(x)[:, :, 0]


# Pipeline -> what builds its parts, how its latents lie, and what its call is given.
TAKEN = {
    "StableDiffusion3Img2ImgPipeline": (sd3, as_it_is, {**WHOLE, "guidance_scale": 1.0}),
    "FluxImg2ImgPipeline": (flux, packed, {**WHOLE, "guidance_scale": 3.5}),
    "FluxInpaintPipeline": (flux, packed, {**INPAINTED, "guidance_scale": 3.5}),
    "FluxKontextPipeline": (flux, packed, {"max_area": 256}),
    "ChromaImg2ImgPipeline": (chroma, packed, {
        **WHOLE, "guidance_scale": 1.0, "max_sequence_length": 32,
    }),
    "QwenImageImg2ImgPipeline": (qwen_image, packed_film, {**WHOLE, "max_sequence_length": LIMIT}),
    "ZImageImg2ImgPipeline": (z_image, listed, {
        **WHOLE, "guidance_scale": 0.0, "max_sequence_length": LIMIT,
    }),
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The plain pipeline of each builder, built once."""
    kept = {}

    def pipe_of(builder):
        if builder not in kept:
            folder = builder(tmp_path_factory.mktemp("flow") / "model")
            kept[builder] = Denoiser.load(folder, resolution=16).pipe
        return kept[builder]

    return pipe_of


@pytest.mark.parametrize("name", TAKEN)
def test_what_hands_the_same_to_the_network_is_taken(built, name):
    """By its own call: the picture it starts from is noise at its first step, or not there."""
    builder, lie, more = TAKEN[name]
    pipe = getattr(diffusers, name)(**built(builder).components)
    denoiser = Denoiser(pipe, resolution=16)
    given, out = first_call(pipe, denoiser.network, PROMPT, **SIZE, **more)
    xt = lie(pipe, given[0] if 0 in given else given["hidden_states"])
    sign = -1 if builder is z_image else 1  # its flow is the other way round
    with torch.no_grad():
        ours = denoiser.predict(xt, 999, denoiser.encode_captions([PROMPT]))
    torch.testing.assert_close(ours, sign * lie(pipe, out), rtol=1e-5, atol=1e-6)


def refused(pipe, reason):
    with pytest.raises(ModelError, match=f"{type(pipe).__name__} is not supported: {reason}") as e:
        Denoiser(pipe)
    assert "\n" not in str(e.value)


def test_control_networks(built):
    control = torch.nn.Linear(2, 2)
    pipe = diffusers.FluxControlNetPipeline(**built(flux).components, controlnet=control)
    refused(pipe, "it has a controlnet beside its transformer, whose input no question gives")
    control = diffusers.SD3ControlNetModel.from_transformer(built(sd3).transformer, num_layers=1)
    pipe = diffusers.StableDiffusion3ControlNetPipeline(**built(sd3).components, controlnet=control)
    refused(pipe, "it has a controlnet")


@pytest.mark.parametrize("name, channels", [("FluxFillPipeline", 24), ("FluxControlPipeline", 8)])
def test_networks_that_read_more_than_the_noisy_latents(built, name, channels):
    parts = {k: v for k, v in built(flux).components.items() if k not in (
        "image_encoder", "feature_extractor", "transformer",
    )}  # fmt: skip
    config = {**built(flux).transformer.config, "in_channels": 4 * channels, "out_channels": 16}
    network = diffusers.FluxTransformer2DModel.from_config(config)
    refused(
        getattr(diffusers, name)(**parts, transformer=network),
        rf"its transformer reads more than the noisy latents .*: {channels} channels, and latents "
        "have 4",
    )
