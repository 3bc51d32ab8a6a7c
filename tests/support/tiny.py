"""The smallest models and data set that every command takes; random, made in a second."""

import json
from pathlib import Path

import torch

from support.tiny_parts import autoencoder, clip_encoder, unet


def tiny_pipeline(folder: Path, *, seed: int = 0, **changes) -> Path:
    """Save a random StableDiffusionPipeline (16x16 pictures); `changes` go to its UNet.

    `seed` is the UNet's: like checkpoints of one training, all have the same encoders.
    """
    from diffusers import StableDiffusionPipeline

    from headwater.scenes.pipeline import new_scheduler, new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    text_encoder, vae = clip_encoder(tokenizer, layers=1), autoencoder()
    torch.manual_seed(seed)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet(**changes),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


# Of a configuration: a UNet of pixels, which reads no prompts.
PIXELS = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}


def tiny_unconditional(folder: Path, *, seed: int = 0) -> Path:
    """Save a random DDPMPipeline (16x16 pictures), which reads no prompts."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return Path(folder)


def tiny_folder(folder: Path, n: int, split: str = "train") -> Path:
    """The first n scenes of a split as 16x16 PNGs with their captions in `metadata.jsonl`."""
    from headwater.scenes.dataset import pictures

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w") as metadata:
        for picture in pictures(split)[:n]:
            name = f"{picture.id}.png"
            picture.draw().resize((16, 16)).save(folder / name)
            metadata.write(json.dumps({"file_name": name, "text": picture.caption}) + "\n")
    return folder


def as_calls(weight, bias=None):
    """Calls of a linear layer that give these per-sample gradients: [b, o, i] and [b, o].

    One token for each output brings its row of the weight; one more, with x = 0, mends the bias.
    """
    b, o, i = weight.shape
    x, gy = weight, torch.eye(o).expand(b, o, o)
    if bias is not None:
        x = torch.cat([x, torch.zeros(b, 1, i)], 1)
        gy = torch.cat([gy, (bias - 1)[:, None]], 1)
    return [(x, gy)]
