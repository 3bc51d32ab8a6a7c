"""Every kind of autoencoder is undone by its own decoding, and says how large its latents are."""

import pytest
import torch
from support import tiny_joint
from support.tiny_parts import autoencoder

from headwater import Denoiser
from headwater.models.families.autoencoders import decoded, downscaling, encoded, latent_channels


def tiny(folder):
    from diffusers import AutoencoderTiny

    sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    return AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))


def of(builder):
    return lambda folder: Denoiser.load(builder(folder)).pipe.vae


KINDS = {
    "scaled": (lambda _: autoencoder(), 4, 2),
    "shifted": (lambda _: autoencoder(shift_factor=0.1), 4, 2),
    "tiny": (tiny, 4, 2),
    "film": (of(tiny_joint.qwen_image), 4, 2),
    "packed": (of(tiny_joint.klein), 16, 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_decoded_as_they_came(tmp_path, kind):
    """What is decoded is what the autoencoder makes of its own, unscaled latents."""
    build, channels, factor = KINDS[kind]
    vae, pixels = build(tmp_path), torch.rand(2, 3, 16, 16) * 2 - 1
    assert (latent_channels(vae), downscaling(vae)) == (channels, factor)
    with torch.no_grad():
        x0 = encoded(vae, pixels)
        assert x0.shape == (2, channels, 16 // factor, 16 // factor)
        plain = vae.encode(pixels[:, :, None] if kind == "film" else pixels)
        plain = plain.latents if kind == "tiny" else plain.latent_dist.mean
        exact = vae.decode(plain).sample
        exact = exact[:, :, 0] if kind == "film" else exact
        torch.testing.assert_close(decoded(vae, x0), exact, rtol=1e-5, atol=1e-5)
