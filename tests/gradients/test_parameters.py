"""Which layers a name or an expression stands for."""

import pytest
from torch import nn

from headwater.errors import ParameterError
from headwater.gradients.parameters import first_match, select

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
