"""Adapters of flow transformers from files, in the forms that their trainers write."""

import peft
import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from support.tiny_joint import qwen_image, z_image

from headwater import Denoiser

PROMPT, RANK, ALPHA = "a red star", 4, 3  # a factor that no float holds exactly


def diffusers(folder, pipe, weights):
    """As diffusers' training scripts write it."""
    type(pipe).save_lora_weights(folder, transformer_lora_layers=weights)
    return folder


def ai_toolkit(folder, pipe, weights):
    """With the name of the original code before each."""
    tensors = {f"diffusion_model.{name}": part.contiguous() for name, part in weights.items()}
    save_file(tensors, folder / "lora.safetensors")
    return folder


def kohya(folder, pipe, weights):
    """Names without points, and a factor for each layer."""
    tensors = {}
    for name, part in weights.items():
        layer, side, _ = name.rsplit(".", 2)
        stem = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{stem}.lora_{ {'lora_A': 'down', 'lora_B': 'up'}[side] }.weight"] = (
            part.contiguous()
        )
        tensors[f"{stem}.alpha"] = torch.tensor(float(ALPHA))
    save_file(tensors, folder / "lora.safetensors")
    return folder


@pytest.mark.parametrize(
    "build, form, alpha",
    [
        (z_image, diffusers, RANK),
        (z_image, ai_toolkit, RANK),
        (z_image, kohya, ALPHA),
        (qwen_image, kohya, ALPHA),
    ],
)
def test_the_prediction_is_that_of_what_was_trained(tmp_path, build, form, alpha):
    folder = build(tmp_path / "model")
    trained, plain = (Denoiser.load(folder, resolution=16) for _ in range(2))
    wanted = peft.LoraConfig(
        r=RANK, lora_alpha=alpha, target_modules=["to_q", "to_k", "to_v", "to_out.0"],
        init_lora_weights=False,
    )  # fmt: skip
    trained.network.add_adapter(wanted)
    (tmp_path / "lora").mkdir()
    files = form(tmp_path / "lora", trained.pipe, get_peft_model_state_dict(trained.network))
    loaded = Denoiser.load(folder, resolution=16, lora=files)
    assert len(loaded.layers("lora")) == len(trained.layers("lora")) > 0
    xt, condition = torch.randn(1, *plain.latent_shape), plain.encode_captions([PROMPT])
    with torch.no_grad():
        ours, exact, without = (x.predict(xt, 499, condition) for x in (loaded, trained, plain))
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)
    assert (ours - without).abs().max() > 1e-3
