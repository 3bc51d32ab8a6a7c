"""Which pipelines around a UNet cannot be asked, and why.

What would fail later is refused here, and, worse, what would run and give numbers that mean
nothing, since the network misses an input that a question does not give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from headwater.errors import ModelError
from headwater.models.families.autoencoders import autoencoder
from headwater.models.families.words import text_encoders

# Parts that what is asked about goes through, or that only look at finished pictures.
_PARTS = {
    "unet", "vae", "vqvae", "movq", "text_encoder", "tokenizer", "scheduler",
    "safety_checker", "feature_extractor", "image_encoder",
}  # fmt: skip
_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL", "VQModel")

# Settings of the network that ask for one more input -> what that is.
_WANTS = {
    "class_embed_type": "a class label",
    "num_class_embeds": "a class label",
    "addition_embed_type": "more than the prompt's encoding (SDXL's and Kolors' sizes, images)",
    "encoder_hid_dim_type": "an encoding that is projected first (images, or another encoder's)",
    "time_cond_proj_dim": "a guidance embedding that its pipeline does not make",
}


def require_supported(pipe: Any, handled: Sequence[str] = ()) -> None:
    """Refuse a pipeline with a UNet that is not one of noisy latents and a prompt.

    Args:
        handled: parts and settings that its family knows what to do with.

    Raises:
        ModelError: names what is not supported.
    """
    for reason in _reasons(pipe, handled):
        raise ModelError(f"{type(pipe).__name__} is not supported: {reason}")


def _reasons(pipe: Any, handled: Sequence[str]) -> Iterator[str]:
    more = [name for name in _parts_of(pipe) if name not in _PARTS.union(handled)]
    if more:
        yield (
            f"it has a {more[0]} beside its `unet`, whose input no question gives (pipelines with "
            "one text encoder and one autoencoder at most are)"
        )
    yield from _of_network(pipe, handled)
    yield from _of_encoders(pipe)


def _parts_of(pipe: Any) -> list[str]:
    """Names of the pipeline's parts; those of optional ones that are not there are left out."""
    optional = getattr(type(pipe), "_optional_components", ())
    parts = getattr(pipe, "components", None) or vars(pipe) | vars(type(pipe))
    return [
        name
        for name, part in parts.items()
        if not name.startswith("_")
        and name not in ("config", "components")
        and not (part is None and name in optional)
    ]


def _of_network(pipe: Any, handled: Sequence[str]) -> Iterator[str]:
    config: Any = pipe.unet.config
    for name, what in _WANTS.items():
        made = name == "time_cond_proj_dim" and hasattr(pipe, "get_guidance_scale_embedding")
        if config.get(name) is not None and name not in handled and not made:
            yield f"its network wants {what}: {name} is {config.get(name)!r}"
    if config.get("attention_type", "default") != "default":
        yield f"its network wants boxes: attention_type is {config.get('attention_type')!r}"
    if config.sample_size is None:
        yield "its network's configuration has no sample_size: write the size of its latents there"
    channels, out = config.in_channels, config.out_channels
    if autoencoder(pipe) is None and channels not in (1, 3):
        yield (
            f"its network reads {channels} channels and there is no autoencoder, so they are not "
            "those of a picture alone"
        )
    if out not in (channels, 2 * channels):
        yield f"its network reads {channels} channels and predicts {out}" + (
            "; it reads more than the noisy latents (inpainting, depth, editing)"
            if out < channels
            else ""
        )


def _of_encoders(pipe: Any) -> Iterator[str]:
    config, vae = pipe.unet.config, autoencoder(pipe)
    reads = "cross_attention_dim" in config
    encoders = text_encoders(pipe)
    if reads and not encoders:
        yield "its network reads an encoding that no text encoder and tokenizer of it make"
    for encoder in () if reads else encoders.values():
        yield f"its network reads no prompts, and it has a {type(encoder).__name__}"
    if vae is None:
        return
    if type(vae).__name__ not in _AUTOENCODERS:
        yield f"its autoencoder is a {type(vae).__name__}, not one of {', '.join(_AUTOENCODERS)}"
    elif vae.config.latent_channels != config.in_channels:
        yield (
            f"its network reads more than the noisy latents (inpainting, depth, editing): "
            f"{config.in_channels} channels, and latents have {vae.config.latent_channels}"
        )
