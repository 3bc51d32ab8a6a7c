"""Which layers a name or an expression stands for, and what no layer does."""

import pytest
import torch
from torch import nn

from headwater.errors import ParameterError
from headwater.gradients.layers import size
from headwater.gradients.parameters import first_match, left_out, select

SETS = {"key": r"\.to_k$", "gone": r"\.to_v$"}


@pytest.fixture
def network():
    attention = nn.ModuleDict({"to_k": nn.Linear(2, 2), "to_out": nn.Linear(2, 2)})
    return nn.ModuleDict({"block": attention, "act": nn.SiLU(), "norm": nn.LayerNorm(2)})


@pytest.mark.parametrize(
    "parameters, names",
    [
        ("key", ["block.to_k"]),
        ("all", ["block.to_k", "block.to_out", "norm"]),
        (r"^block", ["block.to_k", "block.to_out"]),
        ("norm|to_out", ["block.to_out", "norm"]),
    ],
)
def test_sets_and_expressions(network, parameters, names):
    assert list(select(network, parameters, SETS)) == names


def test_what_matches_nothing_is_named_with_what_is_near(network):
    with pytest.raises(ParameterError, match=r"'to_key' matches no layer; nearest: block\.to_k"):
        select(network, "to_key", SETS)
    with pytest.raises(ParameterError, match=r"or one of key, gone, lora, all$"):
        select(network, "gone", SETS)
    with pytest.raises(ParameterError, match=r"'\(' is no regular expression"):
        select(network, "(", SETS)


def test_the_first_set_that_is_there(network):
    assert first_match(network, ("gone", "key", "all"), SETS) == "key"
    assert first_match(network, ("gone", r"to_out$", "all"), SETS) == r"to_out$"
    assert first_match(network, ("gone", "lora"), SETS) == "lora"  # the last, whether or not


class Scaled(nn.Module):
    """A kind that is in no table, with two parameters."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))


class Block(nn.Module):
    """Attention with an unknown norm, and a table of the block's own."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(6, 2))
        self.attention = nn.ModuleDict({"to_k": nn.Linear(2, 2), "norm": Scaled()})
        self.ff = nn.ModuleDict({"out": nn.Linear(2, 2), "none": nn.SiLU()})


class Network(nn.Module):
    """Two blocks, an adapter with factors of its own, tokens and a known norm."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Parameter(torch.ones(4, 2))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.lokr = nn.ParameterDict({"w1": torch.ones(5), "w2": torch.ones(6)})
        self.norm = nn.LayerNorm(2)


def block(i):
    return [
        (f"blocks.{i}.table", "Block", 12),
        (f"blocks.{i}.attention.norm", "Scaled", 5),
    ]


TOKENS, LOKR = ("tokens", "Network", 8), ("lokr", "ParameterDict", 11)


@pytest.mark.parametrize(
    "parameters, expected",
    [
        ("all", [TOKENS, *block(0), *block(1), LOKR]),
        (r"1\.attention", [TOKENS, *block(1), LOKR]),
        (r"1\.ff", [TOKENS, block(1)[0], LOKR]),
        ("^norm", [TOKENS, LOKR]),
    ],
)
def test_what_is_left_out_beside_chosen_layers(parameters, expected):
    network = Network()
    assert left_out(network, select(network, parameters)) == expected


def test_all_that_is_left_out():
    """With the layers, that is every number of the network."""
    network = Network()
    found = left_out(network)
    assert found == left_out(network, select(network, "all"))
    attributed = sum(size(layer) for layer in select(network, "all").values())
    assert attributed + sum(part.numel for part in found) == sum(
        parameter.numel() for parameter in network.parameters()
    )


def test_what_is_mixed_is_left_out_with_all_inside():
    """And nothing whose name begins alike."""
    network, mixed = Network(), ["blocks.1", "norm", "blocks.0.f"]
    assert list(select(network, "all", mixed=mixed)) == [
        "blocks.0.attention.to_k",
        "blocks.0.ff.out",
    ]
    names = [part.name for part in left_out(network, mixed=mixed)]
    assert "norm" in names and "blocks.1.ff.out" in names and "blocks.0.ff.out" not in names


def test_nothing_is_left_out(network):
    assert left_out(network) == []


def test_a_network_that_is_one_unknown_module():
    assert left_out(Scaled()) == [("a", "Scaled", 2), ("b", "Scaled", 3)]
