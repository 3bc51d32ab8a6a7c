"""The smallest pipelines around a UNet: random, made from configuration, and saved."""

from pathlib import Path

import torch

from support.tiny_parts import WIDTH, autoencoder, clip_encoder, unet


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
