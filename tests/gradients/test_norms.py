"""Norms of diffusers and transformers, each in its own arithmetic, against autograd."""

import copy

import pytest
import torch
from diffusers.models.normalization import FP32LayerNorm, MochiRMSNorm
from diffusers.models.normalization import RMSNorm as DiffusersRMSNorm
from diffusers.pipelines.kolors.text_encoder import RMSNorm as KolorsRMSNorm
from support.layer_cases import assert_exact, drawn, exact
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from headwater.gradients.layers import attributable, per_sample, size
from headwater.gradients.vjp import Tape

# The layer, and how near autograd comes: 1e-6 where it sums or multiplies in float32.
NORMS = {
    "diffusers": (DiffusersRMSNorm(6, eps=1e-3), 1e-9),
    "diffusers, bias": (DiffusersRMSNorm(6, eps=1e-3, bias=True), 1e-9),
    "diffusers, two axes": (DiffusersRMSNorm((5, 6), eps=1e-3), 1e-9),
    "Mochi": (MochiRMSNorm(6, eps=1e-3), 1e-9),
    "Kolors": (KolorsRMSNorm(6, eps=1e-3), 1e-9),
    "T5": (T5LayerNorm(6, eps=1e-3), 1e-9),
    "Qwen2": (Qwen2RMSNorm(6, eps=1e-3), 1e-9),
    "Llama": (LlamaRMSNorm(6, eps=1e-3), 1e-9),
    "Gemma2": (Gemma2RMSNorm(6, eps=1e-3), 1e-6),
    "float32 layer norm": (FP32LayerNorm(6, eps=1e-3), 1e-6),
    "float32 layer norm, no bias": (FP32LayerNorm(6, eps=1e-3, bias=False), 1e-6),
}
SHAPES = [(5, 6), (2, 5, 6)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_against_autograd(name, shape):
    layer, near = NORMS[name]
    layer, x, gy = drawn(layer, shape)
    ours = per_sample(layer, [(x, gy)])
    assert ours.shape == (5, size(layer))
    assert_exact(ours, exact(layer, x, gy), near)


@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_lower_precision_stays_near_float64(name, dtype, near):
    layer, x, gy = drawn(NORMS[name][0], (5, 6))
    x, gy = x.to(dtype), gy.to(dtype)
    truth = exact(layer, x.double(), gy.double())
    ours = per_sample(copy.deepcopy(layer).to(dtype), [(x, gy)])
    assert ours.dtype == torch.float32
    assert (ours.double() - truth).norm() <= near * truth.norm()


def test_a_float32_layer_norm_is_not_taken_in_float64():
    """Where float32 loses what sets the coordinates apart, so does the gradient."""
    layer = FP32LayerNorm(2).double()
    x = 1 + torch.tensor([[[0.0, 1e-9]]]).double()
    gy = torch.ones_like(x)
    assert per_sample(layer, [(x, gy)])[0, :2].eq(0).all()
    assert per_sample(nn.LayerNorm(2, eps=1e-30).double(), [(x, gy)])[0, :2].abs().min() > 0.9


class InputScaledRMSNorm(nn.Module):
    """The weight inside of the norm, which is no factor then."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        x = x * self.weight
        return x * x.square().mean(-1, keepdim=True).rsqrt()


class RMSNorm(nn.Module):
    """A name, and a scale that goes by another than `weight`."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(6))


@pytest.mark.parametrize(
    "layer",
    [
        DiffusersRMSNorm(6, eps=1e-3, elementwise_affine=False),
        FP32LayerNorm(6, elementwise_affine=False),
        nn.RMSNorm(6, elementwise_affine=False),
        InputScaledRMSNorm(),
        RMSNorm(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_norms_that_are_not_attributed(layer):
    assert list(attributable(nn.Sequential(layer))) == []


def test_the_layer_at_work_is_left_alone():
    """Its weights stay, hooks see no further call, a forward bound to it is not asked."""
    layer, x, gy = drawn(LlamaRMSNorm(6), (5, 6))
    weight, truth = layer.weight.clone(), exact(layer, x, gy)
    with Tape({"norm": layer}) as tape:
        out = layer(x)
        layer.forward = lambda hidden_states: 0 * hidden_states
        ((_, ours),) = tape.gradients(out, gy)
        assert not tape._seen
    assert_exact(ours, truth)
    assert torch.equal(layer.weight, weight)
