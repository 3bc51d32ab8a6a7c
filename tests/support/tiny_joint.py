"""The smallest pipelines whose words and picture attend to each other: random, and saved."""

from pathlib import Path

import torch

from support.tiny_language import bos_tokenizer, chat_tokenizer, gemma2, qwen3, qwen_vl
from support.tiny_parts import (
    LATENT,
    WIDTH,
    autoencoder,
    awake,
    clip_encoder,
    t5_encoder,
)


def sd3(folder: Path, t5=True, layers=2, **settings) -> Path:
    """Stable Diffusion 3; `settings` are the transformer's."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    from headwater.scenes.pipeline import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=LATENT,
        in_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
        pos_embed_max_size=LATENT,
        **settings,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=clip_encoder(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(tokenizer, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=t5_encoder(tokenizer, 2 * WIDTH) if t5 else None,
        tokenizer_3=tokenizer if t5 else None,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def flux(folder: Path, guided=True) -> Path:
    """Flux.1: `guided` is dev, else schnell."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    from headwater.scenes.pipeline import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guided,
        axes_dims_rope=(2, 2, 4),
    )
    pipe = FluxPipeline(
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(tokenizer, 2 * WIDTH),
        tokenizer_2=tokenizer,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def schnell(folder: Path) -> Path:
    """Flux.1 schnell."""
    return flux(folder, guided=False)


def z_image(folder: Path) -> Path:
    """Z-Image."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )

    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2],
        axes_lens=[128, 16, 16],
    )
    pipe = ZImagePipeline(
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def qwen_image(folder: Path) -> Path:
    """Qwen-Image."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[-0.5, 0.0, 0.25, 0.5],
        latents_std=[2.0, 1.5, 1.0, 0.5],
    )
    pipe = QwenImagePipeline(
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=qwen_vl(tokenizer),
        tokenizer=tokenizer,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def klein(folder: Path, guided=False, layers=27) -> Path:
    """Flux.2 klein; dev's transformer is `guided`. The pipelines read states of many `layers`."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=guided,
    )
    vae = AutoencoderKLFlux2(
        sample_size=2 * LATENT,
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    pipe = Flux2KleinPipeline(
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=qwen3(tokenizer, num_hidden_layers=layers, intermediate_size=8),
        tokenizer=tokenizer,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def chroma(folder: Path) -> Path:
    """Chroma."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    from headwater.scenes.pipeline import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    pipe = ChromaPipeline(
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def lumina2(folder: Path) -> Path:
    """Lumina 2."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )

    torch.manual_seed(0)
    tokenizer = bos_tokenizer()
    transformer = Lumina2Transformer2DModel(
        sample_size=LATENT,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(128, 16, 16),
        cap_feat_dim=WIDTH,
    )
    pipe = Lumina2Pipeline(
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=gemma2(tokenizer),
        tokenizer=tokenizer,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def aura_flow(folder: Path) -> Path:
    """AuraFlow."""
    from diffusers import (
        AuraFlowPipeline,
        AuraFlowTransformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    from headwater.scenes.pipeline import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    transformer = AuraFlowTransformer2DModel(
        sample_size=LATENT,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pos_embed_max_size=36,
    )
    with torch.no_grad():  # or words would hardly reach the picture
        for parameter in transformer.parameters():
            parameter.mul_(2)
    pipe = AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer, kind="UMT5"),
        vae=autoencoder(),
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )
    pipe.save_pretrained(folder)
    return Path(folder)
