"""Parameters that stand in no layer, in every way that networks use them, against autograd."""

import threading

import pytest
import torch
from support.layer_cases import assert_exact
from torch import nn
from torch._C import _len_torch_function_stack

from headwater.errors import ParameterError
from headwater.gradients.bare import Bare
from headwater.gradients.layers import size
from headwater.gradients.parameters import left_out, select
from headwater.gradients.vjp import Tape
from headwater.models.patches import compiled, frozen

PLACES = torch.tensor([2, 0, 2])  # one of them twice
# Of a module of width 4 whose input [b, 3, 4] is x, and whose parameter p has this shape.
USES = {
    "PixArt's table": ((2, 4), lambda p, x: _modulated(p[None] + x[:, :1], x)),
    "Sana's, on its device": ((2, 4), lambda p, x: _modulated(x[:, :1] + p[None].to(x.device), x)),
    "Wan's table": ((1, 2, 4), lambda p, x: _modulated(p + x[:, :1].double(), x)),
    "one for each token": ((2, 4), lambda p, x: (p[None, None] + x[:, :, None]).prod(2)),
    "AuraFlow's registers": ((1, 2, 4), lambda p, x: torch.cat([p.repeat(len(x), 1, 1), x], 1)),
    "registers, expanded": ((1, 2, 4), lambda p, x: torch.cat([p.expand(len(x), -1, -1), x], 1)),
    "AuraFlow's places": ((1, 5, 4), lambda p, x: (x + p[:, PLACES]).sin()),
    "HunyuanDiT's padding": ((3, 4), lambda p, x: torch.where(x > 0, x, p).sin()),
    "a scale in another type": ((4,), lambda p, x: x * (1 + p.float().double())),
    "in parts": ((2, 4), lambda p, x: x * p.chunk(2)[0] + p.unbind(0)[1]),
    "twice": ((4,), lambda p, x: (x * p).tanh() + p),
    "beside its shape": (
        (1, 3, 4), lambda p, x: x.reshape(-1, *p.shape[1:]).type_as(p) - p.to(x),
    ),
}  # fmt: skip


def _modulated(table, x):
    shift, scale = table.chunk(2, dim=1)
    return x * (1 + scale) + shift


class Block(nn.Module):
    """A layer, and a parameter of the block's own."""

    def __init__(self, shape, use):
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(shape))
        self.first, self.use = nn.Linear(4, 4), use

    def forward(self, x):
        return self.use(self.scale_shift_table, self.first(x))


def network_of(shape, use):
    torch.manual_seed(0)
    return nn.Sequential(Block(shape, use), nn.Linear(4, 4)).double()


TABLE = "0.scale_shift_table"


def recorded(network, x, delta):
    with frozen(network), Tape(select(network, "all")) as tape:
        return dict(tape.gradients(network(x), delta))


@pytest.mark.parametrize("name", USES)
def test_rows_are_those_of_autograd(name):
    network = network_of(*USES[name])
    x = torch.randn(3, 3, 4).double()
    delta = torch.randn_like(network(x)).detach()
    rows, weight = [], network.get_parameter(TABLE)
    for i in range(3):
        (found,) = torch.autograd.grad(network(x[i : i + 1]), weight, delta[i : i + 1])
        rows.append(found.flatten())
    ours = recorded(network, x, delta)
    assert set(ours) == {TABLE, "0.first", "1"}
    assert_exact(ours[TABLE], torch.stack(rows))
    assert torch.equal(network(x), network(x.clone())) and _len_torch_function_stack() == 0
    assert weight.requires_grad and weight is network[0].scale_shift_table


REFUSED = {
    "linear": ((4, 4), lambda p, x: nn.functional.linear(x, p)),
    "cat": ((1, 3, 4), lambda p, x: torch.cat([x, p], 1)),
    "add": ((3, 4), lambda p, x: x + (p + torch.ones(3, 4))),  # meets what is no batch
    "repeat": ((1, 3, 4), lambda p, x: p.repeat(len(x), 2, 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_uses_are_refused_by_name(name):
    network = network_of(*REFUSED[name])
    said = f"uses its parameter {TABLE} by '{name}', of which .* --parameters"
    with pytest.raises(ParameterError, match=said):
        recorded(network, torch.randn(2, 3, 4).double(), torch.ones(2, 3, 4).double())
    assert _len_torch_function_stack() == 0 and network[0].scale_shift_table.requires_grad


def test_a_batch_that_is_one_sequence_is_refused():
    network = network_of((4,), lambda p, x: (x.flatten(0, 1)[None] + p).reshape(x.shape))
    with pytest.raises(ParameterError, match=r"where a batch of 2 has 1 rows"):
        recorded(network, torch.randn(2, 3, 4).double(), torch.ones(2, 3, 4).double())


def test_passes_without_gradient_and_of_other_threads_are_not_recorded():
    network, x = network_of(*USES["twice"]), torch.randn(2, 3, 4).double()
    ours = recorded(network, x, torch.ones_like(x))[TABLE]
    with frozen(network), Tape(select(network, TABLE)) as tape:
        out = network(x)
        with torch.no_grad():
            network(x[:1])
        other = threading.Thread(target=lambda: network(x[:1]))
        other.start()
        other.join()
        assert torch.equal(dict(tape.gradients(out, torch.ones_like(x)))[TABLE], ours)


def test_they_are_chosen_by_name_and_counted():
    network = network_of(*USES["twice"])
    assert list(select(network, "table")) == [TABLE] and left_out(network) == []
    (layer,) = select(network, TABLE).values()
    assert isinstance(layer, Bare) and layer.weight is network[0].scale_shift_table
    assert size(layer) == 4 and layer.owner is network[0]
    assert [part.name for part in left_out(network, mixed=[TABLE])] == [TABLE]


def test_a_module_is_not_compiled_around_its_parameter():
    """What is inside it is; `compiled` parts have no hooks."""
    network = network_of(*USES["twice"])
    with compiled(network, list(select(network, TABLE).values()), backend="eager"):
        parts = [name for name, part in network.named_modules() if part._compiled_call_impl]
    assert parts == ["0.first", "1"]
