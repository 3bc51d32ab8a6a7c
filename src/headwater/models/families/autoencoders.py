"""Autoencoders of pictures, whatever their kind: latents in the scale that networks are trained in.

Three things differ: how latents are shifted and scaled (by a number, by a number for each channel,
by a batch norm), whether pictures are films of one frame, and whether latents are packed to patches
first.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from headwater.gradients.layers import widened


def autoencoder(pipe: Any) -> Any:
    """A pipeline's, by the names of its parts; None for one of pixels."""
    return getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)


def encoded(vae: Any, pixels: Float[Tensor, "b 3 ph pw"]) -> Float[Tensor, "b c h w"]:
    """The mean of the posterior, shifted and scaled, in float32 or better."""
    pixels = pixels.to(next(vae.parameters()))
    found = vae.encode(pixels[:, :, None] if _of_films(vae) else pixels)
    # some have latents and no posterior: AutoencoderTiny, VQModel, AutoencoderDC
    plain = [getattr(found, name) for name in ("latents", "latent") if hasattr(found, name)]
    x0 = widened(plain[0] if plain else found.latent_dist.mean)
    x0 = x0[:, :, 0] if _of_films(vae) else x0
    x0 = F.pixel_unshuffle(x0, _patch(vae))
    shift, scale = _shift_and_scale(vae, x0)
    return (x0 - shift) * scale


def decoded(vae: Any, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 ph pw"]:
    """Pictures of such latents, in the autoencoder's type, with their graph."""
    shift, scale = _shift_and_scale(vae, x0)
    x0 = F.pixel_shuffle(x0 / scale + shift, _patch(vae)).to(next(vae.parameters()))
    if _of_films(vae):
        return vae.decode(x0[:, :, None]).sample[:, :, 0]
    return vae.decode(x0).sample


def downscaling(vae: Any) -> int:
    """How many pixels a latent is wide."""
    if vae is None:
        return 1
    if hasattr(vae, "spatial_compression_ratio"):
        return vae.spatial_compression_ratio
    return 2 ** (len(vae.config.block_out_channels) - 1) * _patch(vae)


def latent_channels(vae: Any) -> int:
    """How many numbers a latent is."""
    if _of_films(vae):
        return vae.config.z_dim
    return vae.config.latent_channels * _patch(vae) ** 2


def _of_films(vae: Any) -> bool:
    """Whether it takes pictures as films of one frame, as Qwen-Image's and Wan's do."""
    return "temperal_downsample" in vae.config


def _patch(vae: Any) -> int:
    """Height and width of the patches that latents are packed to, as by Flux.2's."""
    return vae.config.patch_size[0] if hasattr(vae, "bn") else 1


def _shift_and_scale(vae: Any, x0: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """What is taken from latents, and what they are multiplied by then."""
    config = vae.config
    if hasattr(vae, "bn"):
        variance = vae.bn.running_var + config.batch_norm_eps
        return _channels(vae.bn.running_mean, x0), _channels(variance.rsqrt(), x0)
    if config.get("latents_mean") is not None:
        scale = (config.get("scaling_factor") or 1.0) / _channels(config.latents_std, x0)
        return _channels(config.latents_mean, x0), scale
    return config.get("shift_factor") or 0.0, config.scaling_factor


def _channels(numbers: Any, x0: Tensor) -> Tensor:
    return torch.as_tensor(numbers).to(x0)[:, None, None]
