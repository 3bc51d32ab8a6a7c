"""What a network looks like while gradients are taken: frozen, and no work done twice."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from functools import partial

from diffusers.models.activations import GEGLU
from torch import Tensor, nn
from torch.nn import functional as F

_KEYS_AND_VALUES = re.compile(r"\.attn2\.to_[kv](\.|$)")
_CAPTIONS_KEPT = 4  # c, c+, c- and the empty prompt


@contextmanager
def for_gradients(network: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """All that follows at once, for a network that is asked for the gradients of these layers."""
    with frozen(network), captions_kept(network), gates_apart(network, layers):
        yield


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No weight asks for a gradient and no dropout fires inside; afterwards all is as it was."""
    modes = [(part, part.training) for part in module.modules()]
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def captions_kept(network: nn.Module) -> Iterator[None]:
    """Cross-attention keys and values are projected once for each caption, not at every timestep.

    A caption is known by its tensor: the same object gives what it gave before, as a leaf of its
    own, so that every pass has its own gradient there.
    """
    layers = [
        module
        for name, module in network.named_modules()
        if type(module) is nn.Linear and _KEYS_AND_VALUES.search(name)
    ]
    for layer in layers:
        layer.forward = _remembering(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _remembering(layer: nn.Linear):
    kept: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()

    def forward(x: Tensor) -> Tensor:
        if x.requires_grad or layer.weight.requires_grad:
            return nn.Linear.forward(layer, x)
        if id(x) not in kept:  # x is kept too, so its id is not given to another
            kept[id(x)] = (x, nn.Linear.forward(layer, x))
            if len(kept) > _CAPTIONS_KEPT:
                kept.popitem(last=False)
        return kept[id(x)][1].detach()

    return forward


@contextmanager
def gates_apart(network: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Gated activations (GEGLU) compute value and gate by two products instead of a split one.

    The halves of a split are strided, which makes the gate's backward slow, and the backward of
    the split itself puts two gradients together again: a tenth of the time of a probe. Numbers
    stay the same but for rounding. Left alone where the product's layer is one of `layers`,
    because its hooks would not be called.
    """
    found = [module for module in network.modules() if isinstance(module, GEGLU)]
    gates = [gate for gate in found if type(gate.proj) is nn.Linear and gate.proj not in layers]
    for gate in gates:
        gate.forward = partial(_gated, gate.proj)
    try:
        yield
    finally:
        for gate in gates:
            del gate.forward


def _gated(proj: nn.Linear, x: Tensor) -> Tensor:
    biases = (None, None) if proj.bias is None else proj.bias.chunk(2)
    value, gate = map(partial(F.linear, x), proj.weight.chunk(2), biases)
    return value * F.gelu(gate)


@contextmanager
def compiled(
    network: nn.Module, layers: Sequence[nn.Module], backend: str = "inductor"
) -> Iterator[None]:
    """`torch.compile` for the parts of the network that hold none of these layers.

    A compiled part has no hooks inside, so only the largest parts without an attributed layer are
    compiled. Their buffers are kept for a second backward pass, which `dps` makes.
    """
    import torch._dynamo.config as dynamo
    import torch._functorch.config as functorch

    parts = list(_without(network, set(layers)))
    for part in parts:
        part.compile(backend=backend)
    try:
        # each shape of each part is a compilation of its own; the default gives up after eight
        with dynamo.patch(recompile_limit=256), functorch.patch(donated_buffer=False):
            yield
    finally:
        for part in parts:
            part._compiled_call_impl = None


def _without(module: nn.Module, layers: Set[nn.Module]) -> Iterator[nn.Module]:
    """The largest descendants that have parameters and hold none of `layers`."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) or not layers.isdisjoint(child.modules()):
            yield from _without(child, layers)
        elif child not in layers and any(True for _ in child.parameters()):
            yield child
