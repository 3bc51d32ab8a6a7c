"""What a network looks like while gradients are taken: frozen, and no work done twice.

Several threads may do so with one network, and one thread within another's block: a module runs
what its own thread has put in place, weights are frozen until the last one has left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from headwater.errors import ParameterError
from headwater.gradients.bare import Bare

if TYPE_CHECKING:
    from headwater.models.denoiser import Denoiser

_CONDITIONS_KEPT = 4  # c, c+, c- and the empty prompt

# Held while modules are changed, and never while they compute.
_changing = RLock()


@contextmanager
def for_gradients(denoiser: Denoiser, layers: Sequence[nn.Module]) -> Iterator[None]:
    """All that follows at once, for a model that is asked for the gradients of these layers."""
    network = denoiser.network
    faster = denoiser.family.faster(network, layers)
    encoders = denoiser.word_encoders().values() if denoiser.words_have_graph else ()
    with ExitStack() as stack:
        for part in (network, *encoders):
            stack.enter_context(frozen(part))
        stack.enter_context(captions_kept(denoiser))
        stack.enter_context(swapped_forwards(faster))
        yield


# --- weights --------------------------------------------------------------------------------------


@dataclass
class _Thaw:
    """How a module was before it was frozen, and how many blocks want it frozen."""

    training: bool
    parameters: list[nn.Parameter]
    blocks: int = 0


_frozen: WeakKeyDictionary[nn.Module, _Thaw] = WeakKeyDictionary()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No weight asks for a gradient and no dropout fires inside; afterwards all is as it was."""
    parts = list(module.modules())
    with _changing:
        for part in parts:
            _freeze(part)
    try:
        yield
    finally:
        with _changing:
            for part in parts:
                _thaw(part)


def _freeze(part: nn.Module) -> None:
    if part not in _frozen:
        wanted = [p for p in part.parameters(recurse=False) if p.requires_grad]
        _frozen[part] = _Thaw(part.training, wanted)
    _frozen[part].blocks += 1
    part.training = False
    for parameter in _frozen[part].parameters:
        parameter.requires_grad_(False)


def _thaw(part: nn.Module) -> None:
    before = _frozen[part]
    before.blocks -= 1
    if before.blocks == 0:
        del _frozen[part]
        part.training = before.training
        for parameter in before.parameters:
            parameter.requires_grad_(True)


# --- forwards -------------------------------------------------------------------------------------


class _Switch:
    """Stands as a module's `forward` while anybody has swapped it: each thread runs its own."""

    def __init__(self, module: nn.Module) -> None:
        self.own = vars(module).get("forward")  # of whoever swapped it before us, accelerate say
        self.plain: Callable[..., Any] = module.forward
        self.swapped: dict[int, list[Callable[..., Any]]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # one thread compiles, and threads cannot be asked for
            return next(iter(self.swapped.values()))[-1](*args, **kwargs)
        stack = self.swapped.get(get_ident())
        return (stack[-1] if stack else self.plain)(*args, **kwargs)


@contextmanager
def swapped_forward(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """The module computes `function` instead of its `forward`, for this thread and inside only.

    Blocks may be nested, and left in any order and by any thread: the latest that is still open
    counts. The module is never without a `forward`.
    """
    thread = get_ident()
    with _changing:
        switch = vars(module).get("forward")
        if not isinstance(switch, _Switch):
            switch = _Switch(module)
            module.forward = switch
        switch.swapped[thread] = [*switch.swapped.get(thread, ()), function]
    try:
        yield
    finally:
        with _changing:
            _unswap(module, switch, thread, function)


def _unswap(module: nn.Module, switch: _Switch, thread: int, function: Callable[..., Any]) -> None:
    """Take one function out, and the switch with the last. Lists are replaced, not changed."""
    left = list(switch.swapped[thread])
    del left[max(i for i, other in enumerate(left) if other is function)]
    if left:
        switch.swapped[thread] = left
        return
    del switch.swapped[thread]
    if switch.swapped:
        return
    if switch.own is None:
        del module.forward
    else:
        module.forward = switch.own


@contextmanager
def swapped_forwards(
    replacements: Iterable[tuple[nn.Module, Callable[..., Any]]],
) -> Iterator[None]:
    """`swapped_forward` for several modules."""
    with ExitStack() as stack:
        for module, function in replacements:
            stack.enter_context(swapped_forward(module, function))
        yield


@contextmanager
def captions_kept(denoiser: Denoiser) -> Iterator[None]:
    """What depends on the caption alone is projected once for each, not at every timestep.

    A caption is known by its tensor: the same object gives what it gave before, as a leaf of its
    own, so that every pass has its own gradient there.
    """
    layers = denoiser.family.kept_projections(denoiser.network)
    with swapped_forwards((layer, remembering(layer)) for layer in layers):
        yield


def remembering(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer's forward, which knows what it gave for the last few inputs."""
    kept: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()

    def forward(x: Tensor) -> Tensor:
        if x.requires_grad or layer.weight.requires_grad:
            return nn.Linear.forward(layer, x)
        if id(x) not in kept:  # x is kept too, so its id is not given to another
            kept[id(x)] = (x, nn.Linear.forward(layer, x))
            if len(kept) > _CONDITIONS_KEPT:
                kept.popitem(last=False)
        return kept[id(x)][1].detach()

    return forward


# --- memory ---------------------------------------------------------------------------------------


@contextmanager
def recomputed(network: Any) -> Iterator[None]:
    """No block keeps what it computes in between: a backward pass computes it again.

    Activation checkpointing, as diffusers' networks have it: a third more time, and a fraction of
    the memory.

    Raises:
        ParameterError: the network has none.
    """
    if not hasattr(network, "enable_gradient_checkpointing"):
        raise ParameterError(
            f"--recompute is for networks of diffusers, and this is a {type(network).__name__}: "
            "leave it out"
        )
    network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        network.disable_gradient_checkpointing()


# --- compiling ------------------------------------------------------------------------------------


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

    held = {layer.owner if isinstance(layer, Bare) else layer for layer in layers}
    parts = list(_without(network, held))
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
