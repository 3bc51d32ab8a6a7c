"""Gradients in blocks: the same numbers as whole ones, and the same features of them."""

import pytest
import torch
from support.layer_cases import CASES, drawn
from torch import nn

from headwater.gradients import blocks as blocks_module
from headwater.gradients.blocks import block_sizes, blocks
from headwater.gradients.layers import is_outer_product, per_sample, size
from headwater.gradients.projection import PROJECTIONS, make_projection

STREAMED = {
    "linear": (nn.Linear(7, 40), (3, 7)),
    "linear, no bias": (nn.Linear(60, 9, bias=False), (3, 60)),
    "convolution": (nn.Conv2d(4, 12, 3, padding=1), (4, 5, 5)),
    "one long row": (nn.Linear(300, 1), (3, 300)),
    "grouped convolution": (nn.Conv2d(4, 8, 3, groups=2), (4, 5, 5)),
}
MOST = 100


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(blocks_module, "MOST", MOST)


@pytest.mark.parametrize("name", CASES)
def test_together_they_are_the_whole(name, small):
    layer, x, gy = drawn(*CASES[name])
    calls = [(x, gy), (2 * x, gy)]
    parts = list(blocks(layer, calls))
    assert [part.shape[1] for part in parts] == block_sizes(layer)
    torch.testing.assert_close(torch.cat(parts, 1), per_sample(layer, calls))
    if is_outer_product(layer):
        assert max(block_sizes(layer)) <= max(MOST, layer.weight[0].numel())


def both(monkeypatch, projection, layer, calls, dim):
    """Features and norms of the whole gradient, and of one in blocks."""
    for most in (10**6, MOST):
        monkeypatch.setattr(blocks_module, "MOST", most)
        add = make_projection(projection, {"layer": layer}, dim, 3).add["layer"]
        out = torch.zeros(len(calls[0][0]), dim, dtype=torch.float64)
        norms = add(out, calls)
        yield out, norms
    assert len(block_sizes(layer)) > 1 or not is_outer_product(layer)


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_features_and_norms_are_the_same(projection, name, monkeypatch):
    layer, x, gy = drawn(*STREAMED[name])
    dim = size(layer) if projection == "identity" else 64
    whole, streamed = both(monkeypatch, projection, layer, [(x, gy), (x.flip(0), gy)], dim)
    assert whole[0].abs().sum() > 0
    torch.testing.assert_close(streamed, whole)


def test_a_sketch_smaller_than_a_block_and_one_larger_than_all(monkeypatch):
    layer, x, gy = drawn(*STREAMED["linear"])
    for dim in (5, 41, size(layer)):
        whole, streamed = both(monkeypatch, "count-sketch", layer, [(x, gy)], dim)
        torch.testing.assert_close(streamed, whole)


def test_half_precision_is_widened(small):
    layer, x, gy = drawn(*STREAMED["linear"])
    layer.bfloat16()
    parts = list(blocks(layer, [(x.bfloat16(), gy.bfloat16())] * 2))
    assert len(parts) > 1 and all(part.dtype == torch.float32 for part in parts)
