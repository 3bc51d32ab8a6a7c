"""Every projection: unbiased for every layer, whatever its shape; exact norms; its own seed.

What is compared with is the gradient itself, never another projection.
"""

from dataclasses import replace

import pytest
import torch
from support.tiny import as_calls
from torch import nn

from headwater.errors import ParameterError
from headwater.gradients.blocks import forms_as_they_are
from headwater.gradients.layers import per_sample, size
from headwater.gradients.projection import PROJECTIONS, make_projection, project, side_by_side

SEEDS = 100
RANDOM = [name for name in PROJECTIONS if name != "identity"]


def layer_of(o, i, bias=False):
    return nn.Linear(i, o, bias=bias)


def projected(name, layers, calls, dim, seed=0):
    made = make_projection(name, layers, dim, seed)
    out = torch.zeros(len(next(iter(calls.values()))[0][0]), dim)
    norms = {layer: made.add[layer](out, calls[layer]) for layer in layers}
    return out, norms


torch.manual_seed(0)  # these are drawn while the file is read, before a test is seeded
CONV = nn.Conv2d(3, 5, 3, padding=1)
SHAPES = {
    "one number": (layer_of(1, 1), [(torch.randn(2, 1, 1), torch.randn(2, 1, 1))]),
    "smaller than k": (layer_of(3, 5), as_calls(torch.randn(2, 3, 5))),
    "larger than k": (layer_of(20, 30), as_calls(torch.randn(2, 20, 30))),
    "oblong": (layer_of(2, 300), as_calls(torch.randn(2, 2, 300))),
    "bias": (layer_of(20, 30, bias=True), as_calls(torch.randn(2, 20, 30), torch.randn(2, 20))),
    "few tokens": (layer_of(20, 30, bias=True), [(torch.randn(2, 3, 30), torch.randn(2, 3, 20))]),
    "two calls": (
        layer_of(20, 30),
        [(torch.randn(2, 3, 30), torch.randn(2, 3, 20)) for _ in range(2)],
    ),
    "convolution": (CONV, [(torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8))]),
    "convolution in space": (
        nn.Conv3d(2, 5, 2),
        [(torch.randn(2, 2, 4, 3, 3), torch.randn(2, 5, 3, 2, 2))],
    ),
    "grouped convolution": (
        nn.Conv2d(4, 8, 3, groups=2),
        [(torch.randn(2, 4, 8, 8), torch.randn(2, 8, 6, 6))],
    ),
    "group norm": (nn.GroupNorm(2, 300), [(torch.randn(2, 300, 4), torch.randn(2, 300, 4))]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", RANDOM)
def test_inner_products_are_kept_in_expectation(name, shape):
    """Over many seeds the mean of <Pa, Pb> is <a, b>, within 4 standard errors."""
    layer, calls = SHAPES[shape]
    exact = per_sample(layer, calls)
    exact = exact @ exact.T
    dim = min(256, size(layer))
    rows = [projected(name, {"x": layer}, {"x": calls}, dim, s)[0] for s in range(SEEDS)]
    draws = torch.stack([row @ row.T for row in rows])
    error = (draws.mean(0) - exact).abs()
    assert (error <= 4 * draws.std(0) / SEEDS**0.5 + 1e-4 * exact.diagonal().mean()).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PROJECTIONS)
def test_norms_are_those_of_the_gradient(name, shape):
    layer, calls = SHAPES[shape]
    dim = size(layer) if name == "identity" else min(64, size(layer))
    _, norms = projected(name, {"x": layer}, {"x": calls}, dim)
    exact = per_sample(layer.double(), [(x.double(), gy.double()) for x, gy in calls])
    layer.float()
    torch.testing.assert_close(norms["x"].double(), exact.norm(dim=1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", RANDOM)
def test_layers_of_any_size_have_one_scale(name):
    """A small layer and a large one with gradients of norm 1 bring equal energy, side by side."""
    layers = {"small": layer_of(16, 17), "large": layer_of(40, 50)}  # more than features, both
    for own in layers:
        calls = {}
        for layer, module in layers.items():
            g = torch.randn(8, *module.weight.shape)
            g /= g.norm(dim=(1, 2))[:, None, None]
            g *= layer == own
            calls[layer] = as_calls(g)
        energy = torch.stack([
            projected(name, layers, calls, 256, s)[0].square().sum(1) for s in range(60)
        ])  # fmt: skip
        error = 4 * energy.mean(1).std() / 60**0.5
        assert (energy.mean() - 1).abs() <= error.clamp_min(1e-4)


@pytest.mark.parametrize("name", RANDOM)
def test_layers_are_projected_apart(name):
    """The same gradient in two layers must not add up as if it were one of double size."""
    layers = {"a": layer_of(20, 30), "b": layer_of(20, 30)}
    g = as_calls(torch.randn(1, 20, 30))
    exact = 2 * per_sample(layers["a"], g).square().sum()
    energy = torch.stack([
        projected(name, layers, {"a": g, "b": g}, 256, s)[0].square().sum() for s in range(SEEDS)
    ])  # fmt: skip
    assert (energy.mean() - exact).abs() <= 4 * energy.std() / SEEDS**0.5


@pytest.mark.parametrize("name", ["count-sketch", "factored", "gaussian", "rademacher"])
def test_a_layer_is_projected_alike_in_any_company(name):
    a, b = layer_of(8, 5), layer_of(6, 5)
    calls = {"a": as_calls(torch.randn(1, 8, 5)), "b": as_calls(torch.randn(1, 6, 5))}
    alone, _ = projected(name, {"a": a}, calls, 16, 3)
    without, _ = projected(name, {"b": b}, calls, 16, 3)
    together, _ = projected(name, {"b": b, "a": a}, calls, 16, 3)
    torch.testing.assert_close(together - without, alone)


@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_moves_it_and_nothing_else_does(name):
    layers, calls = {"a": layer_of(8, 5)}, {"a": as_calls(torch.randn(2, 8, 5))}
    first, again, other = (projected(name, layers, calls, 16, s)[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_projections_side_by_side_are_each_of_them():
    """With gradients in forms of their own: one is half as long."""
    layer, calls = SHAPES["bias"]
    plain = forms_as_they_are({"layer": layer})
    form = plain["layer"]
    halved = {"layer": replace(form, blocks=lambda c: (part / 2 for part in form.blocks(c)))}
    each = [project("count-sketch", plain, 16, seed=0), project("gaussian", halved, 7, seed=1)]
    out, alone = torch.zeros(2, 23), [torch.zeros(2, 16), torch.zeros(2, 7)]
    norms = side_by_side(each).add["layer"](out, calls)
    first, _ = (one.add["layer"](part, calls) for one, part in zip(each, alone, strict=True))
    assert torch.equal(out, torch.cat(alone, 1)) and out.all()
    assert torch.equal(norms, first)


def test_identity_keeps_every_coordinate():
    layers = {"a": layer_of(8, 5), "b": layer_of(6, 5)}
    calls = {"a": as_calls(torch.randn(2, 8, 5)), "b": as_calls(torch.randn(2, 6, 5))}
    out, _ = projected("identity", layers, calls, 70)
    exact = torch.cat([per_sample(layers[name], calls[name]) for name in layers], 1)
    torch.testing.assert_close(out, exact)


@pytest.mark.parametrize("dim", [2, 7, 40, 69, 70])
def test_a_mask_uses_every_feature(dim):
    layers = {"a": layer_of(8, 5), "b": layer_of(6, 5)}
    calls = {"a": as_calls(torch.ones(1, 8, 5)), "b": as_calls(torch.ones(1, 6, 5))}
    out, _ = projected("mask", layers, calls, dim)
    assert (out > 0).all()


@pytest.mark.parametrize(
    "name, dim, said",
    [
        ("count-sketch", 0, "between 1 and 70"),
        ("count-sketch", 71, "between 1 and 70"),
        ("identity", 69, "keeps all 70"),
        ("mask", 1, "less than the 2 layers"),
        ("counts", 8, "not one of count-sketch, factored, mask"),
    ],
)
def test_refused(name, dim, said):
    with pytest.raises(ParameterError, match=said):
        make_projection(name, {"a": layer_of(6, 5), "b": layer_of(8, 5)}, dim, 0)
