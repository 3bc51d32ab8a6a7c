"""Pipelines as single files: tensors by the names that Stable Diffusion was published with."""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OUTSIDE = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def save_single_file(pipe, file: Path, *parts: str) -> Path:
    """A Stable Diffusion (1 or XL) as one file; with `parts` only of these: unet, vae, text."""
    large = hasattr(pipe, "text_encoder_2")
    tensors = {}
    if not parts or "unet" in parts:
        tensors |= _renamed(pipe.unet, "model.diffusion_model.", _unet_name(pipe.unet.config))
    if not parts or "vae" in parts:
        tensors |= _renamed(pipe.vae, "first_stage_model.", _vae_name(pipe.vae.config))
    if not parts or "text" in parts:
        stem = "conditioner.embedders.0" if large else "cond_stage_model"
        tensors |= _renamed(pipe.text_encoder, f"{stem}.transformer.", _clip_name)
        if large:
            tensors |= _open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


def _renamed(module, prefix, name):
    return {prefix + name(key): tensor for key, tensor in module.state_dict().items()}


def _clip_name(key):
    return f"text_model.{key.removeprefix('text_model.')}"


def _unet_name(config):
    per_block = config.layers_per_block

    def of_block(side, block, kind, number):
        """The number of the original's list of blocks, and the place in it."""
        has_attention = "CrossAttn" in config[f"{side}_block_types"][block]
        if kind.endswith("samplers"):
            last = (block + 1) * (per_block + 1)
            if side == "down":
                return f"input_blocks.{last}.0.op"
            return f"output_blocks.{last - 1}.{2 if has_attention else 1}.conv"
        place = 0 if kind == "resnets" else 1
        if side == "down":
            return f"input_blocks.{block * (per_block + 1) + number + 1}.{place}"
        return f"output_blocks.{block * (per_block + 1) + number}.{place}"

    def name(key):
        for ours, theirs in _OUTSIDE.items():
            if key.startswith(ours + "."):
                return theirs + key.removeprefix(ours)
        found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
        if found:
            side, block, kind, number, rest = found.groups()
            stem = of_block(side, int(block), kind, int(number))
            rest = rest.removeprefix("conv.") if kind.endswith("samplers") else rest
        else:
            kind, number, rest = re.fullmatch(r"mid_block\.(\w+)\.(\d+)\.(.*)", key).groups()
            stem = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
        if kind == "resnets":
            part, _, last = rest.rpartition(".")
            rest = f"{_RESNET[part]}.{last}"
        return f"{stem}.{rest}"

    return name


def _vae_name(config):
    last = len(config.block_out_channels) - 1

    def name(key):
        key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
        key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
        key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{last - int(m[1])}.block.", key)
        return re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", key
        )

    return name


def _open_clip(encoder, prefix):
    """The second encoder of Stable Diffusion XL, whose three projections are one tensor."""
    names = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "layer_norm1": "ln_1", "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
        "text_model.final_layer_norm": "ln_final", "self_attn.out_proj": "attn.out_proj",
        "text_model.encoder.layers": "transformer.resblocks",
    }  # fmt: skip
    tensors, state = {}, encoder.state_dict()
    for key, tensor in state.items():
        if "q_proj" in key:
            each = [state[key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            kind = key.rpartition(".")[2]
            key = key.replace(f"self_attn.q_proj.{kind}", f"attn.in_proj_{kind}")
            tensor = torch.cat(each)
        elif "k_proj" in key or "v_proj" in key:
            continue
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if key == "text_projection.weight":
            key, tensor = "text_projection", tensor.T
        tensors[prefix + key] = tensor
    return tensors
