"""LoKr and LoHa: by LyCORIS' names, as PEFT saves them, and what is attributed of them."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.exact_gradients import layer_errors
from support.tiny_joint import z_image
from support.tiny_unets import sdxl

from headwater import Denoiser
from headwater.errors import ModelError

peft = pytest.importorskip("peft")

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYERS = [f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k", f"{BLOCK}.ff.net.2"]
CONVOLUTION = "down_blocks.0.resnets.0.conv1"


def lokr(layer, rank=1, alpha=0.5, generator=None):
    """Tensors of a layer [o, i], and the change that they make: scale kron(w1, a b)."""
    o, i = layer.weight.shape[0], layer.weight[0].numel()
    w1 = torch.randn(2, 2, generator=generator)
    a = torch.randn(o // 2, rank, generator=generator)
    b = torch.randn(rank, i // 2, generator=generator)
    tensors = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(alpha)}
    return tensors, alpha / rank * torch.kron(w1, a @ b)


def loha(layer, rank=2, alpha=1.0, generator=None):
    """The same: scale (a b) * (c d)."""
    o, i = layer.weight.shape[0], layer.weight[0].numel()
    a, c = (torch.randn(o, rank, generator=generator) for _ in range(2))
    b, d = (torch.randn(rank, i, generator=generator) for _ in range(2))
    tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d,
               "alpha": torch.tensor(alpha)}  # fmt: skip
    return tensors, alpha / rank * (a @ b) * (c @ d)


def save(file, network, layers, make, renamed="lora_unet_{}".format):
    """A file of these layers; the changes of their weights."""
    generator, tensors, added = torch.Generator().manual_seed(0), {}, {}
    for name in layers:
        layer = network.get_submodule(name)
        own, change = make(layer, generator=generator)
        stem = renamed(name.replace(".", "_"))
        tensors |= {f"{stem}.{key}": tensor.contiguous() for key, tensor in own.items()}
        added[layer] = change.reshape(layer.weight.shape)
    save_file(tensors, file)
    return added


def same(loaded, pipe, added):
    """The model is the one with the changes in its weights."""
    with torch.no_grad():
        for layer, change in added.items():
            layer.weight.add_(change)
    exact, xt = Denoiser(pipe, resolution=16), torch.randn(1, *loaded.latent_shape)
    with torch.no_grad():
        ours, theirs = (m.predict(xt, 500, m.encode_captions(["a star"])) for m in (loaded, exact))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["lora_unet_{}", "lycoris_{}"])
@pytest.mark.parametrize("make", [lokr, loha])
def test_files_of_stable_diffusion(tiny_model, tmp_path, make, prefix):
    pipe, file = Denoiser.load(tiny_model).pipe, tmp_path / "mine.safetensors"
    layers = [*LAYERS, CONVOLUTION] if make is loha else LAYERS
    added = save(file, pipe.unet, layers, make, prefix.format)
    loaded = Denoiser.load(tiny_model, lora=file)
    assert len(loaded.layers("lora")) == len(layers) and loaded.default_parameters() == "lora"
    same(loaded, pipe, added)


def test_blocks_of_sdxl_by_the_numbers_it_was_published_with(tmp_path):
    model = sdxl(tmp_path / "sdxl")
    pipe, file = Denoiser.load(model).pipe, tmp_path / "mine.safetensors"

    def published(name):
        return "lora_unet_" + name.replace("down_blocks_0_attentions_0", "input_blocks_1_1")

    added = save(file, pipe.unet, LAYERS, loha, published)
    same(Denoiser.load(model, lora=file), pipe, added)


def test_lokr_of_z_image(tmp_path):
    """As its trainers name it, which diffusers loads."""
    model = z_image(tmp_path / "model")
    pipe, file = Denoiser.load(model, resolution=16).pipe, tmp_path / "mine.safetensors"
    layers = ["layers.0.attention.to_q", "layers.0.feed_forward.w2"]
    added = save(file, pipe.transformer, layers, lokr, "diffusion_model.{}".format)
    tensors = {
        name.replace("layers_0_attention_", "layers.0.attention.").replace(
            "layers_0_feed_forward_", "layers.0.feed_forward."
        ): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file)
    loaded = Denoiser.load(model, lora=file, resolution=16)
    assert list(loaded.layers("lora")) == layers
    same(loaded, pipe, added)


@pytest.mark.parametrize("kind", ["LoKrConfig", "LoHaConfig"])
def test_folders_that_peft_saved(tiny_model, tmp_path, kind):
    pipe = Denoiser.load(tiny_model).pipe
    wanted = getattr(peft, kind)(r=2, alpha=6, target_modules=["to_k", "to_v"], init_weights=False)
    peft.get_peft_model(pipe.unet, wanted).save_pretrained(tmp_path / "mine")
    loaded = Denoiser.load(tiny_model, lora=tmp_path / "mine")
    same(loaded, pipe, {})


@pytest.mark.parametrize("make", [lokr, loha])
def test_rows_are_exact_and_scales_count(tiny_model, tmp_path, make):
    pipe, file = Denoiser.load(tiny_model).pipe, tmp_path / "mine.safetensors"
    save(file, pipe.unet, LAYERS, make)
    denoiser = Denoiser.load(tiny_model, lora=file, lora_scale=0.5, dtype=torch.float64)
    xt, condition = torch.randn(2, 4, 8, 8).double(), denoiser.encode_captions(["a", "b"])
    layers = denoiser.layers("lora")
    assert max(layer_errors(denoiser, layers, xt, 499, condition).values()) < 1e-8
    whole = Denoiser.load(tiny_model, lora=file, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.equal(*(m.predict(xt, 500, condition) for m in (denoiser, whole)))


def test_files_of_something_else(tiny_model, tmp_path):
    pipe, file = Denoiser.load(tiny_model).pipe, tmp_path / "mine.safetensors"

    def refused(reason):
        with pytest.raises(ModelError, match=reason) as caught:
            Denoiser.load(tiny_model, lora=file)
        assert "\n" not in str(caught.value)

    save(file, pipe.unet, LAYERS, lokr)
    tensors = load_file(file)
    save_file(tensors | {"lora_unet_nowhere.lokr_w1": torch.ones(2, 2)}, file)
    refused(r"1 of its 4 layers are none of this model \(lora_unet_nowhere\)")
    save(file, pipe.unet, LAYERS, loha)
    save_file(tensors | load_file(file), file)
    refused("it holds LoKr and LoHa together")
