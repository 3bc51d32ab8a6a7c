"""The smallest pipelines around a UNet: random, made from configuration, and saved."""

from pathlib import Path

import torch

from support.tiny_parts import (
    LATENT,
    WIDTH,
    autoencoder,
    awake,
    clip_encoder,
    quantising_autoencoder,
    unet,
)


def sdxl(folder: Path, second=WIDTH, **settings) -> Path:
    """Stable Diffusion XL; `second` is its second encoder's width, `settings` the pipeline's."""
    from diffusers import StableDiffusionXLPipeline

    from headwater.scenes.pipeline import new_scheduler, new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    pipe = StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(tokenizer),
        text_encoder_2=clip_encoder(tokenizer, projected=True, width=second),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet(cross_attention_dim=WIDTH + second, **text_time(6, second)),
        scheduler=new_scheduler(),
        add_watermarker=False,
        **settings,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def refiner(folder: Path) -> Path:
    """The second stage of the same, which reads one encoder and an aesthetic score."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    from headwater.scenes.pipeline import new_scheduler, new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    pipe = StableDiffusionXLImg2ImgPipeline(
        vae=autoencoder(),
        text_encoder=None,
        text_encoder_2=clip_encoder(tokenizer, projected=True),
        tokenizer=None,
        tokenizer_2=tokenizer,
        unet=unet(**text_time(5)),
        scheduler=new_scheduler(),
        requires_aesthetics_score=True,
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def text_time(count: int, width=WIDTH) -> dict:
    """Settings of a UNet that reads a pooled encoding and so many `time_ids`."""
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": width + 8 * count,
    }


def class_unet(folder: Path, **settings) -> Path:
    """A UNet of 16x16 pictures that reads one of four classes; `settings` are its own."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    usual = {
        "sample_size": 16,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 4,
        "num_class_embeds": 4,
    }
    DDPMPipeline(UNet2DModel(**(usual | settings)), DDPMScheduler()).save_pretrained(folder)
    return Path(folder)


def lcm(folder: Path) -> Path:
    """Stable Diffusion as a latent consistency model, which is told of its guidance."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    from headwater.scenes.pipeline import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    pipe = LatentConsistencyModelPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(tokenizer, layers=1),
        tokenizer=tokenizer,
        unet=awake(unet(time_cond_proj_dim=8)),
        scheduler=LCMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def ldm(folder: Path) -> Path:
    """Latent diffusion without prompts, in the latents of an autoencoder that quantises."""
    from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
    )
    pipe = LDMPipeline(quantising_autoencoder(), network, DDIMScheduler())
    pipe.save_pretrained(folder)
    return Path(folder)
