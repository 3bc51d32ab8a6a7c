"""Rows in the metric of a curvature, against the dense matrix that it stands for, in float64."""

import pytest
import torch
from support.layer_cases import CASES, assert_exact, drawn, exact
from torch import nn

from headwater.curvature import basis as basis_module
from headwater.curvature import factors as factors_module
from headwater.curvature.basis import Basis, basis_of, gradient_in, sizes_in
from headwater.curvature.factors import add_factors, eigenbases, shape_of, widest
from headwater.curvature.moments import add_moments, products
from headwater.curvature.whitening import DAMPING, LayerCurvature, whitened
from headwater.gradients import blocks as blocks_module


def fitted(layer, calls, *, kfac=False):
    """The curvature of a layer on one batch."""
    sums: dict[str, torch.Tensor] = {}
    if shape_of(layer) is not None:
        add_factors(sums, "layer", layer, calls, widest([layer]))
    count = len(calls[0][0])
    bases = eigenbases(sums, count)
    bases = {key: value.double() for key, value in bases.items()}
    basis, moments = basis_of(layer, "layer", bases), {}
    if kfac:
        return LayerCurvature(basis, products(layer, "layer", bases)), bases
    add_moments(moments, "layer", layer, basis, calls)
    return LayerCurvature(basis, moments["layer"] / count), bases


def in_order(layer, gradients):
    """Autograd's numbers as a matrix [outputs, inputs], the bias as the last column."""
    shape = shape_of(layer)
    if shape is None or layer.bias is None:
        return gradients if shape is None else gradients.reshape(-1, *shape)
    weights, bias = gradients[:, : -shape[0]], gradients[:, -shape[0] :]
    return torch.cat([weights.reshape(-1, shape[0], shape[1] - 1), bias[..., None]], 2)


def block_diagonal(side):
    return torch.block_diag(*side)


def dense(layer, curvature):
    """F, in the order of `in_order`."""
    if not curvature.basis.inputs:
        return torch.diag(curvature.moments)
    turn = torch.kron(
        block_diagonal(curvature.basis.outputs), block_diagonal(curvature.basis.inputs)
    ).double()
    return turn @ torch.diag(curvature.moments.double()) @ turn.T


def rows(form, calls):
    return torch.cat(list(form.blocks(calls)), 1)


KINDS = [
    "linear, vectors", "linear, tokens", "linear, no bias", "conv2d", "conv2d, groups", "conv1d",
    "transposed 2d, no bias", "group norm", "layer norm", "rms norm",
]  # fmt: skip


@pytest.mark.parametrize("damping", [DAMPING, 1e-4, 0.1, 1.0])
@pytest.mark.parametrize("name", KINDS)
def test_a_dot_product_is_the_influence(name, damping):
    """<row of a question, row of an image> = g_q^T (F + lambda)^-1 g_i, at any damping."""
    layer, x, gy = drawn(*CASES[name])
    calls = [(x, gy), (x.flip(0), 2 * gy)]
    curvature, _ = fitted(layer, calls)
    g = in_order(layer, exact(layer, x, gy) + exact(layer, x.flip(0), 2 * gy)).flatten(1)
    f = dense(layer, curvature)
    damped = f + damping * f.diagonal().mean() * torch.eye(len(f)).double()
    truth = g @ torch.linalg.solve(damped, g.T)
    ours = (
        rows(whitened(layer, curvature, damping), calls) @ rows(whitened(layer, curvature), calls).T
    )
    assert_exact(ours, truth, near=1e-5)  # eigenvectors are kept in float32


@pytest.mark.parametrize("name", ["linear, tokens", "linear, no bias", "conv2d"])
def test_moments_are_the_best_diagonal_in_the_basis(name):
    """Those of E[g g^T], formed densely; nearer to it than K-FAC's products."""
    layer, x, gy = drawn(*CASES[name])
    g = in_order(layer, exact(layer, x, gy)).flatten(1)
    truth = g.T @ g / len(g)
    ours, _ = fitted(layer, [(x, gy)])
    kfac, _ = fitted(layer, [(x, gy)], kfac=True)
    turn = torch.kron(*(block_diagonal(s) for s in (ours.basis.outputs, ours.basis.inputs)))
    assert_exact(ours.moments, (turn.T.double() @ truth @ turn.double()).diagonal(), near=1e-5)
    apart = [(dense(layer, each) - truth).norm().item() for each in (ours, kfac)]
    assert apart[0] < apart[1]


def test_kfac_is_exact_where_its_sides_are_independent():
    """One token, and every input with every output gradient: E[xx^T (x) ss^T] is a product."""
    layer = nn.Linear(3, 2, bias=False).double()
    inputs, outputs = torch.randn(4, 3).double(), torch.randn(5, 2).double()
    x = inputs.repeat_interleave(5, 0)
    gy = outputs.repeat(4, 1)
    curvature, _ = fitted(layer, [(x, gy)], kfac=True)
    g = exact(layer, x, gy)
    assert_exact(dense(layer, curvature), g.T @ g / len(g), near=1e-5)


def tokens_of_an_embedding():
    """Of five samples, four tokens each, some of them twice."""
    tokens = torch.tensor([[0, 1, 1, 5], [2, 2, 2, 2], [3, 0, 5, 5], [1, 3, 0, 2], [5, 5, 3, 3]])
    return nn.Embedding(6, 3).double(), tokens, torch.randn(5, 4, 3).double()


@pytest.mark.parametrize("layer, x, gy", [drawn(*CASES["layer norm"]), tokens_of_an_embedding()])
def test_layers_without_sides_are_diagonal(layer, x, gy):
    curvature, _ = fitted(layer, [(x, gy)])
    assert curvature.basis == Basis()
    g = exact(layer, x, gy)
    assert_exact(curvature.moments, g.square().mean(0))
    damped = curvature.moments + DAMPING * curvature.moments.mean()
    whole = (
        rows(whitened(layer, curvature), [(x, gy)]) @ rows(whitened(layer, curvature), [(x, gy)]).T
    )
    assert_exact(whole, (g / damped) @ g.T, near=1e-6)


@pytest.mark.parametrize("most", [10**6, 30])
def test_whichever_is_turned_and_however_it_is_cut(most, monkeypatch):
    """The gradient itself, or its sides before it is formed: in one block, or in several."""
    monkeypatch.setattr(basis_module, "MOST", most)
    monkeypatch.setattr(blocks_module, "MOST", most)
    for tokens in (1, 500):  # few: the sides are turned; many: the gradient
        layer, x, gy = drawn(nn.Linear(7, 20), (tokens, 7))
        curvature, _ = fitted(layer, [(x, gy)])
        g = in_order(layer, exact(layer, x, gy))
        outputs, inputs = (
            block_diagonal(s).double() for s in (curvature.basis.outputs, curvature.basis.inputs)
        )
        parts = list(gradient_in(curvature.basis, layer, [(x, gy)]))
        assert [part.shape[1] for part in parts] == sizes_in(curvature.basis, layer)
        assert (len(parts) > 1) == (most == 30)
        assert_exact(torch.cat(parts, 1), (outputs.T @ g @ inputs).flatten(1), near=1e-6)


def test_a_wide_side_is_cut_into_blocks(monkeypatch):
    """Between the blocks the matrix is zero; inside them nothing changes."""
    monkeypatch.setattr(factors_module, "MOST_NUMBERS", 40)
    layer, x, gy = drawn(nn.Linear(7, 5, bias=False), (3, 7))
    assert widest([layer]) == 4  # blocks of 8 would have 74 numbers, these have 38
    curvature, _ = fitted(layer, [(x, gy)], kfac=True)
    assert [len(q) for q in curvature.basis.inputs] == [4, 3]
    assert [len(q) for q in curvature.basis.outputs] == [3, 2]
    a = x.flatten(0, 1).T @ x.flatten(0, 1) / (len(x) * 3)
    s = gy.flatten(0, 1).T @ gy.flatten(0, 1) / len(x)
    a[:4, 4:] = a[4:, :4] = s[:3, 3:] = s[3:, :3] = 0
    assert_exact(dense(layer, curvature), torch.kron(s, a), near=1e-5)


def test_a_layer_that_no_image_went_through_stays_zero():
    layer = nn.Linear(3, 4).double()
    curvature = LayerCurvature(basis_of(layer, "layer", {}), products(layer, "layer", {}))
    found = rows(
        whitened(layer, curvature), [(torch.zeros(2, 3).double(), torch.zeros(2, 4).double())]
    )
    assert found.shape == (2, 16) and not found.any()
