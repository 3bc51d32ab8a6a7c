"""The bundled pipeline's parts, untrained: a Stable Diffusion small enough for one CPU core."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from headwater.scenes.dataset import describe
from headwater.scenes.render import SIZE
from headwater.scenes.vocabulary import ATTRIBUTES

MAX_TOKENS = 32
_WIDTH = 64  # of the text encoder, and so of the cross-attention keys' input


def new_pipeline(tokenizer: Any = None) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline with fresh random weights (seed torch first).

    Its text encoder reads what the tokenizer makes; default is the scenes' own.
    """
    tokenizer = new_tokenizer() if tokenizer is None else tokenizer
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_WIDTH,
            intermediate_size=4 * _WIDTH,
            projection_dim=_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    autoencoder: dict[str, Any] = dict(
        sample_size=SIZE,
        latent_channels=4,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    unet: dict[str, Any] = dict(
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=8,
    )
    parts: dict[str, Any] = dict(
        vae=AutoencoderKL(**autoencoder),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**unet),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return StableDiffusionPipeline(**parts)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule and sampler."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_tokenizer() -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer in which each word of the scenes' captions is one token.

    Other words still work: they fall apart into pieces, down to single bytes.
    """
    letters = sorted(ByteLevel.alphabet())
    merges = _merges(tuple(_caption_words()))
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [left + right for left, right in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    files: dict[str, Any] = dict(vocab=vocabulary, merges=merges)
    return CLIPTokenizer(**files, model_max_length=MAX_TOKENS)


@cache
def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair merges, in order, that make every one of `words` a single token.

    The trainer breaks ties anew in each run, so two models of one process share what it found.
    """
    trainee = Tokenizer(BPE())
    trainee.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = BpeTrainer(
        vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    trainee.train_from_iterator(words, trainer)
    return [(left, right) for left, right in json.loads(trainee.to_str())["model"]["merges"]]


def _caption_words() -> list[str]:
    longest = describe("star", "red", "flat", "plain")
    frame = set(re.findall(r"[a-z]+", longest)) | {"an", "shape"}
    return sorted(frame.union(*ATTRIBUTES.values()))
