"""Every kind of layer against float64 autograd on its own weights, sample by sample."""

import pytest
import torch
from support.layer_cases import CASES, assert_exact, drawn, exact
from torch import nn

from headwater.gradients.bare import Bare
from headwater.gradients.layers import (
    GRADIENTS,
    attributable,
    factors,
    is_outer_product,
    layers_named,
    per_sample,
    size,
)


@pytest.mark.parametrize("name", CASES)
def test_against_autograd(name):
    layer, x, gy = drawn(*CASES[name])
    ours = per_sample(layer, [(x, gy)])
    assert ours.shape == (5, size(layer))
    assert_exact(ours, exact(layer, x, gy))


@pytest.mark.parametrize("shape", [(), (7,), (2, 3)], ids=str)
def test_embeddings(shape):
    layer = nn.Embedding(6, 3).double()
    x = torch.randint(6, (5, *shape))
    gy = torch.randn(*x.shape, 3).double()
    assert_exact(per_sample(layer, [(x, gy)]), exact(layer, x, gy))


PRECISIONS = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_lower_precision_stays_near_float64(name, dtype):
    layer, shape = CASES[name]
    x = torch.randn(5, *shape).to(dtype)
    gy = torch.randn_like(layer.double()(x.double())).to(dtype)
    ours = per_sample(layer.to(dtype), [(x, gy)])
    assert ours.dtype == torch.float32
    truth = exact(layer.double(), x.double(), gy.double())
    assert (ours.double() - truth).norm() <= PRECISIONS[dtype] * truth.norm()


@pytest.mark.parametrize("name", CASES)
def test_factors_multiply_to_the_gradient(name):
    layer, x, gy = drawn(*CASES[name])
    if not is_outer_product(layer):
        pytest.skip("no sum of outer products")
    x1, g1 = factors(layer, x, gy)
    whole = g1.transpose(1, 2) @ x1  # [b, o, i + 1]
    inputs = layer.weight[0].numel()
    ours = torch.cat([whole[..., :inputs].flatten(1), whole[..., inputs:].flatten(1)], 1)
    assert_exact(ours, exact(layer, x, gy))


def test_every_kind_in_the_table_has_a_case():
    kinds = {type(layer) for layer, _ in CASES.values()} | {nn.Embedding}
    assert kinds == set(GRADIENTS) - {Bare}  # which is none, and has cases in test_bare


class Mine(nn.Linear):
    """Another name alone."""


NOT_ATTRIBUTED = {
    "no parameters": nn.SiLU(),
    "a norm without a weight": nn.LayerNorm(2, elementwise_affine=False),
    "a weight made of two": nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
}


def test_subclasses_count():
    assert [name for name, _ in attributable(nn.Sequential(Mine(2, 2)))] == ["0"]


@pytest.mark.parametrize("why", NOT_ATTRIBUTED)
def test_what_is_not_attributed(why):
    layer = NOT_ATTRIBUTED[why]
    assert list(attributable(nn.Sequential(layer))) == []
    with pytest.raises(KeyError, match=f"{type(layer).__name__} is no kind of layer"):
        per_sample(layer, [])


def test_layers_are_found_by_name():
    """In network order, as they are listed; and nothing that has no gradient of its own."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 3)))
    network.scale_shift_table = nn.Parameter(torch.ones(2))
    every = dict(attributable(network))
    assert list(every) == ["scale_shift_table", "0", "2.0"]
    found = layers_named(network, ["2.0", "scale_shift_table", "1", "2", "3"])
    assert list(found) == ["scale_shift_table", "2.0"] and found["2.0"] is every["2.0"]
    assert isinstance(found["scale_shift_table"], Bare)
