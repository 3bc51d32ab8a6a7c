"""Adapters with magnitudes (DoRA), sample by sample against float64 autograd."""

from typing import Any

import pytest
import torch
from support.layer_cases import assert_exact
from torch import nn

from headwater.gradients.layers import parameters_of, size
from headwater.gradients.parameters import left_out, select
from headwater.gradients.vjp import Tape
from headwater.models.patches import frozen

peft = pytest.importorskip("peft")


class Net(nn.Module):
    """A convolution, a layer that sees tokens, and one that sees vectors."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, padding=1)
        self.linear, self.last = nn.Linear(8, 12), nn.Linear(12, 4, bias=False)

    def forward(self, x):
        seen = self.convolution(x).tanh().flatten(2).transpose(1, 2)
        return self.last(self.linear(seen).tanh().mean(1))


def with_adapters(*names: str) -> Any:
    """With magnitudes of either sign, some of them zero."""
    torch.manual_seed(0)
    net: Any = Net()
    for name in names:
        wanted = peft.LoraConfig(
            r=2, lora_alpha=3, use_dora=True, target_modules=["convolution", "linear", "last"],
            init_lora_weights=False,
        )  # fmt: skip
        peft.inject_adapter_in_model(wanted, net, adapter_name=name)
    for layer in (net.convolution, net.linear, net.last):
        layer.set_adapter(list(names))
        for held in layer.lora_magnitude_vector.values():
            nn.init.normal_(held.weight)
    net.linear.lora_magnitude_vector[names[0]].weight.data[:3] = 0
    return net.double().eval()


def both(network, layers, x, delta):
    """Rows of these layers: by the engine, and by autograd row by row."""
    weights = [p.requires_grad_() for layer in layers.values() for p in parameters_of(layer)]
    exact = []
    for i in range(len(x)):
        found = torch.autograd.grad(network(x[i : i + 1]), weights, delta[i : i + 1])
        exact.append(torch.cat([g.flatten() for g in found]))
    with frozen(network), Tape(layers) as tape:
        rows = dict(tape.gradients(network(x.clone().requires_grad_()), delta))
    return torch.cat([rows[name] for name in layers], 1), torch.stack(exact)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
@pytest.mark.parametrize("names", [("one",), ("one", "two")], ids=len)
def test_rows_are_those_of_autograd(names):
    network = with_adapters(*names)
    layers = select(network, "lora")
    assert len(layers) == 3 * 3 * len(names)
    sizes = [size(layer) for name, layer in layers.items() if ".lora_magnitude_vector." in name]
    assert sizes == [8] * len(names) + [12] * len(names) + [4] * len(names)
    x, delta = torch.randn(3, 4, 5, 5).double(), torch.randn(3, 4).double()
    ours, exact = both(network, layers, x, delta)
    assert_exact(ours, exact)


def test_a_layer_whose_bias_peft_uses_by_itself_is_left_out():
    network = with_adapters("one")
    assert [part.name for part in left_out(network)] == [
        "convolution.base_layer", "linear.base_layer",
    ]  # fmt: skip
    layers = select(network, "all")
    assert "last.base_layer" in layers
    x, delta = torch.randn(2, 4, 5, 5).double(), torch.randn(2, 4).double()
    ours, exact = both(network, layers, x, delta)
    assert_exact(ours, exact)


def test_what_peft_learns_the_product_by_is_not_held():
    network = with_adapters("one")
    with frozen(network), Tape(select(network, "lora")) as tape:
        network(torch.randn(2, 4, 5, 5).double().requires_grad_())
        held = [x.shape for name, x, _ in tape._seen if name == "linear.lora_A.one"]
    assert held == [(2, 25, 8)]


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision_stays_near_float64(dtype, near):
    network = with_adapters("one")
    x, delta = torch.randn(3, 4, 5, 5).to(dtype), torch.randn(3, 4).to(dtype)
    layers = select(network, "magnitude")
    _, exact = both(network, layers, x.double(), delta.double())
    network.to(dtype)
    with frozen(network), Tape(layers) as tape:
        rows = dict(tape.gradients(network(x), delta))
    ours = torch.cat([rows[name] for name in layers], 1)
    assert ours.dtype == torch.float32
    assert (ours.double() - exact).norm() <= near * exact.norm()
