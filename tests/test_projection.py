"""The sketch is unbiased for every layer shape, and nothing but seed and name moves it."""

import pytest
import torch

from headwater.errors import ParameterError
from headwater.projection import sketch


def projected(gradients, dim, seed):
    made = sketch({name: g.shape[1] for name, g in gradients.items()}, dim, seed)
    out = torch.zeros(len(next(iter(gradients.values()))), dim)
    for name, gradient in gradients.items():
        made.add(out, name, gradient)
    return out


@pytest.mark.parametrize("size", [1, 16, 640, 5000], ids=lambda d: f"d={d}")
def test_inner_products_are_kept_in_expectation(size):
    """Over 400 seeds the mean of <Pa, Pb> is <a, b>, within 4 standard errors."""
    dim, torch_rows = min(256, size), torch.randn(2, size)
    exact = torch_rows @ torch_rows.T
    draws = torch.stack([(p := projected({"x": torch_rows}, dim, s)) @ p.T for s in range(400)])
    error = (draws.mean(0) - exact).abs()
    assert (error <= 4 * draws.std(0) / 400**0.5 + 1e-4 * exact.diagonal().mean()).all()


def test_layers_of_any_shape_have_one_scale():
    """A small layer and a large one with equal norms bring equal energy."""
    small, large = torch.randn(50, 640), torch.randn(50, 20_000)
    small, large = (g / g.norm(dim=1, keepdim=True) for g in (small, large))
    energy = [
        torch.stack([projected({"x": g}, 512, s).square().sum(1) for s in range(40)]).mean()
        for g in (small, large)
    ]
    assert energy[0] == pytest.approx(1, abs=0.02)
    assert energy[1] == pytest.approx(1, abs=0.02)


def test_layers_do_not_share_their_hash():
    """The same gradient in two layers must not add up as if it were one of double size."""
    g = torch.randn(1, 3000)
    energy = torch.stack([
        projected({"a": g, "b": g}, 1024, seed).square().sum() for seed in range(200)
    ]).mean()  # fmt: skip
    assert energy == pytest.approx(2 * g.square().sum().item(), rel=0.05)


def test_a_layer_is_projected_alike_in_any_company():
    g, other = torch.randn(2, 40), torch.randn(2, 30)
    alone = projected({"a": g}, 16, 3)
    together = projected({"b": other, "a": g}, 16, 3)
    torch.testing.assert_close(together - projected({"b": other}, 16, 3), alone)


@pytest.mark.parametrize("dim", [0, -1, 71])
def test_a_dim_out_of_range_is_refused(dim):
    with pytest.raises(ParameterError, match="between 1 and 70"):
        sketch({"a": 30, "b": 40}, dim, 0)
