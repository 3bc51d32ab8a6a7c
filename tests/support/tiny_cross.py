"""The smallest transformers whose words come by cross-attention: random, and saved."""

import re
from pathlib import Path

import torch

from support.tiny_parts import LATENT, WIDTH, autoencoder, awake, t5_encoder


def video_autoencoder():
    """Of 16x16 videos, at half their size and rate; each channel has its own mean and spread."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 2.0, 1.5, 1.0],
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    )


def wan(folder: Path, second=False, expand_timesteps=False, **settings) -> Path:
    """Wan; `second` adds a network for little noise, `settings` are the transformer's."""
    from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    from headwater.scenes.pipeline import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    usual = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": WIDTH,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 1,
        "rope_max_seq_len": 32,
    }
    transformer, other = (
        awake(WanTransformer3DModel(**(usual | settings))) if each else None
        for each in (True, second)
    )
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer, kind="UMT5"),
        vae=video_autoencoder(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=transformer,
        transformer_2=other,
        boundary_ratio=0.875 if second else None,
        expand_timesteps=expand_timesteps,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def wan_of_two(folder: Path) -> Path:
    """The largest Wan 2.2: a network for much noise, and one for little."""
    return wan(folder, second=True)


def pixart(folder: Path, kind="Alpha", **settings) -> Path:
    """PixArt-alpha or Sigma; `settings` are the transformer's."""
    import diffusers

    from headwater.scenes.pipeline import new_scheduler, new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    usual = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": 1,
        "cross_attention_dim": 24,
        "caption_channels": WIDTH,
        "sample_size": LATENT,
    }
    pipe = getattr(diffusers, f"PixArt{kind}Pipeline")(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer),
        vae=autoencoder(),
        transformer=awake(diffusers.PixArtTransformer2DModel(**(usual | settings))),
        scheduler=new_scheduler(),
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def pixart_with_sizes(folder: Path) -> Path:
    """The largest alpha, which reads each picture's size and shape."""
    return pixart(folder, sample_size=128)


def compressing_autoencoder():
    """Of 16x16 pictures, at half their size, without a posterior."""
    from diffusers import AutoencoderDC

    return AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.4,
    )


def gemma(tokenizer):
    """A language model of one layer, for the tokens of any tokenizer."""
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def sana(folder: Path, **settings) -> Path:
    """Sana; `settings` are the transformer's."""
    from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    from headwater.scenes.pipeline import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    usual = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "sample_size": LATENT,
        "timestep_scale": 0.5,
    }
    pipe = SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=gemma(tokenizer),
        vae=compressing_autoencoder(),
        transformer=awake(SanaTransformer2DModel(**(usual | settings))),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def dit(folder: Path) -> Path:
    """DiT, whose classes are captions of the tests."""
    from diffusers import DiTPipeline, DiTTransformer2DModel

    from headwater.scenes.dataset import pictures
    from headwater.scenes.pipeline import new_scheduler

    torch.manual_seed(0)
    captions = [picture.caption for picture in pictures("train")[:4]]
    asked = ["a red star", "a red", "a fish", "a", "b, the second letter"]
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=LATENT,
    )
    pipe = DiTPipeline(transformer=awake(transformer), vae=autoencoder(), scheduler=new_scheduler())
    labels = {str(i): label for i, label in enumerate([*asked, *captions])}
    pipe.register_to_config(id2label=labels)
    pipe.save_pretrained(folder)
    return Path(folder)


def as_of_old(folder: Path) -> Path:
    """The same with its transformer under the name that all of them once had, as on the hub."""
    for file in (folder / "model_index.json", folder / "transformer" / "config.json"):
        old = re.sub(r"(DiT|PixArt)Transformer2DModel", "Transformer2DModel", file.read_text())
        file.write_text(old)
    return folder


def hunyuan_dit(folder: Path, vae=None, **settings) -> Path:
    """HunyuanDiT; `settings` are the transformer's."""
    from diffusers import HunyuanDiT2DModel, HunyuanDiTPipeline
    from transformers import BertConfig, BertModel

    from headwater.scenes.pipeline import new_scheduler, new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    bert = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        pad_token_id=tokenizer.pad_token_id,
    )
    usual = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "patch_size": 2,
        "sample_size": LATENT,
        "hidden_size": 16,
        "num_layers": 1,
        "mlp_ratio": 2.0,
        "cross_attention_dim": WIDTH,
        "cross_attention_dim_t5": WIDTH,
        "pooled_projection_dim": WIDTH,
    }
    pipe = HunyuanDiTPipeline(
        vae=vae or autoencoder(),
        text_encoder=BertModel(bert),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(tokenizer),
        tokenizer_2=tokenizer,
        transformer=awake(HunyuanDiT2DModel(**(usual | settings))),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return Path(folder)
