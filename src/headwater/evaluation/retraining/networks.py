"""The pipeline that a configuration describes, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn
from transformers import CLIPTextModelWithProjection

from headwater.errors import ModelError
from headwater.evaluation.retraining.config import ModelConfig
from headwater.models.denoiser import Denoiser


def new_pipeline(config: ModelConfig, seed: int) -> Any:
    """The pipeline that a configuration describes, with random weights of this seed.

    Raises:
        ModelError: no network or text encoder can be made of it, or the base cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return _build(config)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"no model can be made of the configuration's network and text_encoder: {error}"
            ) from None


def _build(config: ModelConfig) -> Any:
    if not config.base:
        scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
        return DDIMPipeline(UNet2DModel(**(config.network or {})), scheduler)
    base = Denoiser.load(config.base, "cpu")
    pipe, network = base.pipe, base.network
    if config.family:
        return _made_around(config.family)(base, config.network or {})
    if config.network is not None:
        kept: Any = network
        fresh = type(kept).from_config({**kept.config, **config.network})
        pipe.register_modules(**{_part(pipe, network): fresh})
    if isinstance(config.text_encoder, Mapping):
        kind = type(pipe.text_encoder)
        changed = {**pipe.text_encoder.config.to_dict(), **config.text_encoder}
        pipe.text_encoder = kind(type(pipe.text_encoder.config).from_dict(changed))
    return pipe


def _part(pipe: Any, module: nn.Module) -> str:
    """The name of a part of a pipeline."""
    return next(name for name, part in pipe.components.items() if part is module)


def _made_around(family: str) -> Callable[[Denoiser, Mapping[str, Any]], Any]:
    if family not in AROUND:
        raise ModelError(f"family {family!r} is not one of {', '.join(AROUND)}")
    return AROUND[family]


# --- networks of other families, around a base's text encoder and autoencoder ---------------------


def sd3(base: Denoiser, settings: Mapping[str, Any]) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3: a flow transformer in which words and picture attend to each other.

    Its two CLIP encoders are both the base's, and it has no T5, as where users leave that out; its
    pooled encoding is what the base's makes of a prompt's end.
    """
    channels, size, _ = base.latent_shape
    text_encoder = _with_projection(base.pipe.text_encoder)
    width = text_encoder.config.hidden_size
    transformer = SD3Transformer2DModel(
        **{
            "sample_size": size,
            "in_channels": channels,
            "out_channels": channels,
            "num_layers": 4,
            "num_attention_heads": 4,
            "attention_head_dim": 32,
            "caption_projection_dim": 128,
            "joint_attention_dim": 2 * width,
            "pooled_projection_dim": 2 * width,
            "pos_embed_max_size": size,
            **settings,
        }
    )
    parts: dict[str, Any] = dict(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=base.pipe.vae,
        text_encoder=text_encoder,
        tokenizer=base.pipe.tokenizer,
        text_encoder_2=text_encoder,
        tokenizer_2=base.pipe.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    return StableDiffusion3Pipeline(**parts)


def _with_projection(text_encoder: Any) -> CLIPTextModelWithProjection:
    """The same encoder, whose projection leaves the pooled encoding as it is."""
    config = text_encoder.config
    wide = type(config).from_dict({**config.to_dict(), "projection_dim": config.hidden_size})
    made = CLIPTextModelWithProjection(wide)
    # the encoder itself is `text_model` in older versions of transformers
    own = getattr(text_encoder, "text_model", text_encoder)
    made.text_model.load_state_dict(own.state_dict())
    nn.init.eye_(made.text_projection.weight)
    return made


AROUND: dict[str, Callable[[Denoiser, Mapping[str, Any]], Any]] = {"sd3": sd3}
