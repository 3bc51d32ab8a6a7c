"""Gated activations (GEGLU) by two products instead of a split one.

The halves of a split are strided, which makes the gate's backward slow, and the backward of the
split itself puts two gradients together again: a tenth of the time of a probe. Numbers stay the
same but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from headwater.models.families.family import Replacement


def gates_apart(network: nn.Module, layers: Sequence[nn.Module]) -> Iterator[Replacement]:
    """Each gate, and what says the same as it does.

    Left alone where the product's layer is one of `layers`, because its hooks would not be called.
    """
    from diffusers.models.activations import GEGLU

    for gate in network.modules():
        if isinstance(gate, GEGLU) and type(gate.proj) is nn.Linear and gate.proj not in layers:
            yield gate, partial(gated, gate.proj)


def gated(proj: nn.Linear, x: Tensor) -> Tensor:
    """Value * GELU(gate), of the halves of a linear layer."""
    biases = (None, None) if proj.bias is None else proj.bias.chunk(2)
    value, gate = map(partial(F.linear, x), proj.weight.chunk(2), biases)
    return value * F.gelu(gate)
