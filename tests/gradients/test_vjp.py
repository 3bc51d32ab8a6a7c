"""Per-sample gradients against unprojected float64 autograd, one sample and one layer at a time."""

from threading import Thread

import pytest
import torch
from diffusers import UNet2DConditionModel, WanTransformer3DModel
from support.layer_cases import assert_exact
from torch import nn

from headwater.gradients.parameters import left_out, select
from headwater.gradients.vjp import Tape
from headwater.models.families.sets import UNET
from headwater.models.patches import frozen

EXACT = dict(rtol=1e-9, atol=1e-12)


def brute_force(network, layers, forward, delta):
    """J^T delta of every sample, by a backward pass to the weights for each sample apart."""
    rows = {name: [] for name in layers}
    for i in range(len(delta)):
        weights = [p for layer in layers.values() for p in layer.parameters(recurse=False)]
        found = iter(torch.autograd.grad(forward(i), weights, grad_outputs=delta[i : i + 1]))
        for name, layer in layers.items():
            parts = [next(found).flatten() for _ in layer.parameters(recurse=False)]
            rows[name].append(torch.cat(parts))
    return {name: torch.stack(parts) for name, parts in rows.items()}


def tiny_unet():
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    ).double()


@pytest.mark.parametrize(
    "parameters", ["attn2", "attn2-kv", "attn2-qo", "attn", "up_blocks", "all", r"ff\.net|time_emb"]
)
def test_the_layers_of_a_unet(parameters):
    unet = tiny_unet()
    layers = select(unet, parameters, UNET)
    xt, caption = torch.randn(3, 3, 8, 8).double(), torch.randn(3, 5, 12).double()
    delta = torch.randn_like(xt)

    def forward(i):
        return unet(xt[i : i + 1], 400, encoder_hidden_states=caption[i : i + 1]).sample

    exact = brute_force(unet, layers, forward, delta)
    with frozen(unet), Tape(layers) as tape:
        eps = unet(xt, 400, encoder_hidden_states=caption).sample
        ours = dict(tape.gradients(eps, delta))
    if parameters == "all":
        assert sum(g.shape[1] for g in ours.values()) == unet.num_parameters()
    assert ours.keys() == exact.keys()
    for name in exact:
        torch.testing.assert_close(ours[name], exact[name], **EXACT, msg=name)


def test_the_layers_of_a_video_transformer():
    """Patches in space and time, norms of root mean squares, and one that is in float32."""
    network = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
    ).double()
    layers = select(network, "all")
    xt, caption = torch.randn(2, 4, 2, 4, 4).double(), torch.randn(2, 5, 16).double()
    t, delta = torch.tensor([400, 400]), torch.randn_like(xt)

    def forward(i):
        return network(xt[i : i + 1], t[i : i + 1], caption[i : i + 1]).sample

    exact = brute_force(network, layers, forward, delta)
    with frozen(network), Tape(layers) as tape:
        ours = dict(tape.gradients(network(xt, t, caption).sample, delta))
    assert ours.keys() == exact.keys()
    in_float32 = {name for name in layers if type(layers[name]).__name__ == "FP32LayerNorm"}
    assert in_float32 == {"blocks.0.norm2"}
    for name in exact:
        assert_exact(ours[name].double(), exact[name], 1e-6 if name in in_float32 else 1e-9)
    assert left_out(network) == [] and "blocks.0.scale_shift_table" in exact


class Twice(nn.Module):
    """One layer called twice, its first output changed in place afterwards."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)

    def forward(self, x):
        hidden = self.shared(x)
        hidden *= 2
        return self.shared(hidden)


def test_a_layer_called_twice_and_changed_in_place():
    network = Twice().double()
    x, delta = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    layers = {"shared": network.shared}
    exact = brute_force(network, layers, lambda i: network(x[i : i + 1]), delta)["shared"]
    with frozen(network), Tape(layers) as tape:
        ours = dict(tape.gradients(network(x.requires_grad_()), delta))
    torch.testing.assert_close(ours["shared"], exact, **EXACT)


def test_passes_without_gradient_are_not_recorded():
    network = Twice()
    with frozen(network), Tape({"shared": network.shared}) as tape:
        eps = network(torch.randn(2, 4).requires_grad_())
        with torch.no_grad():
            network(torch.randn(5, 4))
        ((_, rows),) = tape.gradients(eps, torch.ones(2, 4))
    assert rows.shape == (2, 20)


def test_a_pass_of_another_thread_between_a_hook_and_its_mark_is_left_alone():
    """Torch sets `with_kwargs` after the hook and takes it away before, so hooks may lack them."""
    network, errors = Twice(), []

    def elsewhere():
        try:
            network(torch.randn(5, 4))
        except TypeError as error:
            errors.append(error)

    with frozen(network), Tape({"shared": network.shared}) as tape:
        eps = network(torch.randn(2, 4).requires_grad_())
        network.shared._forward_hooks_with_kwargs.clear()
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
        ((_, rows),) = tape.gradients(eps, torch.ones(2, 4))
    assert not errors
    assert rows.shape == (2, 20)


def test_the_network_is_left_as_it_was():
    network = Twice().train()
    network.shared.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="stop"), frozen(network):
        with Tape({"shared": network.shared}):
            assert not network.training
            assert not network.shared.weight.requires_grad
            assert network.shared._forward_hooks
            raise RuntimeError("stop")
    assert network.training
    assert network.shared.weight.requires_grad and not network.shared.bias.requires_grad
    assert not network.shared._forward_hooks
    assert network.shared.weight.grad is None


def test_lora_layers_of_peft():
    """The adapters alone, in the graph that peft makes of them."""
    peft = pytest.importorskip("peft")
    unet = tiny_unet().float()
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    unet = unet.double()
    layers = select(unet, "lora")
    assert layers and all(".lora_" in name for name in layers)
    xt, caption = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 5, 12).double()
    delta = torch.randn_like(xt)

    def forward(i):
        return unet(xt[i : i + 1], 400, encoder_hidden_states=caption[i : i + 1]).sample

    exact = brute_force(unet, layers, forward, delta)
    with frozen(unet), Tape(layers) as tape:
        ours = dict(tape.gradients(unet(xt, 400, encoder_hidden_states=caption).sample, delta))
    for name in exact:
        torch.testing.assert_close(ours[name], exact[name], **EXACT, msg=name)
