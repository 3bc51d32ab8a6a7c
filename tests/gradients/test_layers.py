"""Every kind of layer against float64 autograd on its own weights, sample by sample."""

import pytest
import torch
from torch import nn

from headwater.gradients.layers import (
    GRADIENTS,
    attributable,
    factors,
    gradient_of,
    is_outer_product,
    per_sample,
    size,
)

CASES = {
    "linear, vectors": (nn.Linear(3, 4), (3,)),
    "linear, tokens": (nn.Linear(3, 4), (7, 3)),
    "linear, grid of tokens": (nn.Linear(3, 4), (2, 5, 3)),
    "linear, no bias": (nn.Linear(3, 4, bias=False), (7, 3)),
    "conv2d": (nn.Conv2d(4, 6, 3, padding=1), (4, 7, 5)),
    "conv2d, no bias": (nn.Conv2d(4, 6, 3, bias=False), (4, 7, 5)),
    "conv2d, stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 8, 8)),
    "conv2d, stride that leaves a rest": (nn.Conv2d(4, 6, 3, stride=2), (4, 8, 9)),
    "conv2d, oblong": (nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 2)), (4, 8, 9)),
    "conv2d, dilation": (nn.Conv2d(4, 6, 3, dilation=2, padding=2), (4, 9, 7)),
    "conv2d, groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 7, 7)),
    "conv2d, depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 7, 7)),
    "conv2d, same": (nn.Conv2d(4, 6, (3, 5), padding="same"), (4, 7, 7)),
    "conv2d, valid": (nn.Conv2d(4, 6, 4, padding="valid"), (4, 7, 7)),
    "conv2d, circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 7, 7)),
    "conv2d, reflect": (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (4, 7, 7)),
    "conv2d, pointwise": (nn.Conv2d(4, 6, 1), (4, 7, 7)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), (4, 11)),
    "conv1d, groups": (nn.Conv1d(4, 6, 3, groups=2), (4, 11)),
    "group norm": (nn.GroupNorm(2, 6), (6, 5, 4)),
    "group norm, vectors": (nn.GroupNorm(3, 6), (6,)),
    "layer norm": (nn.LayerNorm(6), (5, 6)),
    "layer norm, no bias": (nn.LayerNorm(6, bias=False), (5, 6)),
    "layer norm, two axes": (nn.LayerNorm((5, 6)), (3, 5, 6)),
}


def exact(layer, x, gy):
    rows = []
    for i in range(len(x)):
        found = torch.autograd.grad(layer(x[i : i + 1]), list(layer.parameters()), gy[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", CASES)
def test_against_autograd(name):
    layer, shape = CASES[name]
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(5, *shape).double()
    gy = torch.randn_like(layer(x))
    ours = gradient_of(layer)(layer, x, gy.detach())
    assert ours.shape == (5, size(layer))
    torch.testing.assert_close(ours, exact(layer, x, gy), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (7,), (2, 3)], ids=str)
def test_embeddings(shape):
    layer = nn.Embedding(6, 3).double()
    x = torch.randint(6, (5, *shape))
    gy = torch.randn(*x.shape, 3).double()
    ours = gradient_of(layer)(layer, x, gy)
    torch.testing.assert_close(ours, exact(layer, x, gy), rtol=1e-9, atol=1e-12)


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
    layer, shape = CASES[name]
    layer = layer.double()
    x = torch.randn(5, *shape).double()
    gy = torch.randn_like(layer(x))
    if not is_outer_product(layer):
        pytest.skip("no sum of outer products")
    x1, g1 = factors(layer, x, gy)
    whole = g1.transpose(1, 2) @ x1  # [b, o, i + 1]
    inputs = layer.weight[0].numel()
    ours = torch.cat([whole[..., :inputs].flatten(1), whole[..., inputs:].flatten(1)], 1)
    torch.testing.assert_close(ours, exact(layer, x, gy), rtol=1e-9, atol=1e-12)


def test_every_kind_in_the_table_has_a_case():
    kinds = {type(layer) for layer, _ in CASES.values()} | {nn.Embedding}
    assert kinds == set(GRADIENTS)


def test_subclasses_count_and_layers_without_parameters_do_not():
    class Mine(nn.Linear):
        pass

    network = nn.Sequential(Mine(2, 2), nn.SiLU(), nn.LayerNorm(2, elementwise_affine=False))
    assert [name for name, _ in attributable(network)] == ["0"]
