"""What a network looks like while gradients are taken: frozen, and no work done twice."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager

from torch import Tensor, nn

_KEYS_AND_VALUES = re.compile(r"\.attn2\.to_[kv](\.|$)")
_CAPTIONS_KEPT = 4  # c, c+, c- and the empty prompt


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No weight asks for a gradient and no dropout fires inside; afterwards all is as it was."""
    training = module.training
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        module.train(training)
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
