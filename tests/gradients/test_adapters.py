"""Adapters that are products of factors, sample by sample against float64 autograd."""

import pytest
import torch
from torch import nn

from headwater.gradients.adapters import adapter_factors
from headwater.gradients.layers import gradient_of, parameters_of, size
from headwater.gradients.parameters import left_out, select
from headwater.gradients.vjp import Tape

peft = pytest.importorskip("peft")

KINDS = {
    "LoKr": lambda **more: peft.LoKrConfig(r=2, alpha=3, **more),
    "LoKr, both factors of low rank": lambda **more: peft.LoKrConfig(
        r=1, alpha=3, decompose_both=True, **more
    ),
    "LoKr, whole": lambda **more: peft.LoKrConfig(r=64, alpha=3, **more),
    "LoHa": lambda **more: peft.LoHaConfig(r=2, alpha=3, **more),
    "convolutions of low rank": lambda **more: peft.LoHaConfig(
        r=2, alpha=3, use_effective_conv2d=True, **more
    ),
}


class Net(nn.Module):
    """A linear layer that sees tokens, and a convolution."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, padding=1)
        self.linear = nn.Linear(8, 12)
        self.last = nn.Linear(12, 4)

    def forward(self, x):
        seen = self.convolution(x).tanh()
        return self.last(self.linear(seen.flatten(2).transpose(1, 2)).tanh())


@pytest.fixture(params=KINDS)
def network(request):
    torch.manual_seed(0)
    net = Net()
    wanted = KINDS[request.param](target_modules=["convolution", "linear"], init_weights=False)
    return peft.inject_adapter_in_model(wanted, net).double().eval()


def autograd(network, names, x, delta):
    """Row by row."""
    layers = network.get_submodule
    weights = [p.requires_grad_() for name in names for p in adapter_factors(layers(name)).values()]
    rows = []
    for i in range(len(x)):
        out = network(x[i : i + 1])
        found = torch.autograd.grad(out, weights, delta[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def test_rows_are_those_of_autograd(network):
    x, delta = torch.randn(3, 4, 5, 5).double(), torch.randn(3, 25, 4).double()
    names = ["convolution", "linear"]
    exact = autograd(network, names, x, delta)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    layers = select(network, "lora")
    assert list(layers) == names
    with Tape(layers) as tape:
        rows = dict(tape.gradients(network(x.clone().requires_grad_()), delta))
    ours = torch.cat([rows[name] for name in names], 1)
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-12)
    assert [size(layer) for layer in layers.values()] == [rows[name].shape[1] for name in names]
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_layer_inside_is_attributed_as_ever(network):
    assert list(select(network, "all")) == [
        "convolution", "convolution.base_layer", "linear", "linear.base_layer", "last",
    ]  # fmt: skip
    assert left_out(network) == []


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_of_several_adapters_those_that_take_part():
    torch.manual_seed(0)
    net = Net()
    for name, rank in (("one", 1), ("two", 2)):
        wanted = peft.LoHaConfig(r=rank, target_modules=["linear"], init_weights=False)
        peft.inject_adapter_in_model(wanted, net, adapter_name=name)
    net.linear.set_adapter(["one", "two"])
    assert size(net.linear) == 3 * 2 * (8 + 12)
    net.linear.set_adapter(["two"])
    assert size(net.linear) == 2 * 2 * (8 + 12)
    assert [p.shape for p in parameters_of(net.linear)] == [
        p.shape for p in adapter_factors(net.linear).values()
    ]


def test_an_adapter_of_a_layer_of_no_known_kind(network):
    class Odd(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.more = nn.Parameter(torch.zeros(2))

    network.linear.base_layer = Odd()
    assert gradient_of(network.linear) is None
    assert any(part.name.startswith("linear.") for part in left_out(network))
