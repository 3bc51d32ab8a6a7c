"""Parts of the smallest pipelines; random, by the generator as it stands."""

import torch

WIDTH = 16  # of text encoders, and so of what reads them
LATENT = 8


def clip_encoder(tokenizer, *, layers=2, projected=False, width=WIDTH):
    """A text encoder; with `projected` it gives a pooled encoding too."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from headwater.scenes.pipeline import MAX_TOKENS

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    with torch.no_grad():  # CLIP starts so close to zero that captions would all look alike
        encoder.get_input_embeddings().weight.normal_()
    return encoder


def t5_encoder(tokenizer, width=WIDTH, kind="T5"):
    """A T5 or UMT5 of one layer, for the tokens of any tokenizer."""
    import transformers

    model = getattr(transformers, f"{kind}EncoderModel")
    return model(
        model.config_class(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=1,
            num_heads=2,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def autoencoder(**more):
    """Of 16x16 pictures, at half their size."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=2 * LATENT,
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        mid_block_add_attention=False,
        **more,
    )


def quantising_autoencoder():
    """Of 16x16 pictures, at half their size, whose decoder knows 32 latents."""
    from diffusers import VQModel

    return VQModel(
        latent_channels=4,
        num_vq_embeddings=32,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=0.5,
    )


def unet(**changes):
    """Two levels, with cross-attention in the outer one."""
    from diffusers import UNet2DConditionModel

    usual = {
        "sample_size": LATENT,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,  # diffusers reads this as the number of heads
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(usual | changes))


def awake(network):
    """The network with no weight at zero: those that begin there would hide what they do."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network
