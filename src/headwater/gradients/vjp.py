r"""Per-sample J^T delta for chosen layers, one after the other, without a single weight gradient.

A layer sees delta only through gy = d<out, delta>/dy, the gradient of its output y. With its input
x that gives the gradient of each sample (for y = W x + b the sum over tokens of gy x^T, and of gy;
`layers.py` has the others). So a forward hook keeps each layer's input and the graph edge of its
output, one `torch.autograd.grad` brings all gy, and the layers are combined, used and dropped one
after the other. Of a parameter that stands in no layer (`bare.py`) it is its copies' gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import get_ident
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from headwater.errors import ParameterError
from headwater.gradients.bare import Bare, Use, Watch
from headwater.gradients.dora import is_dora, is_identity, slope
from headwater.gradients.layers import Call, per_sample, widened

TINY = torch.finfo(torch.float32).tiny


class Tape:
    """Records the chosen modules during forward passes inside its `with` block, of its own thread.

    Passes under `torch.no_grad()` are not recorded, so guidance may call the model in between; nor
    is what a backward pass computes again (activation checkpointing), whose edges are no part of
    the graph. A
    module whose output does not depend on what requires a gradient (cross-attention keys on a
    fixed caption) gets its output marked, so that its gy exists.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = dict(modules)
        self._handles: list[RemovableHandle] = []
        self._thread = get_ident()
        self._seen: list[tuple[str, Tensor | Use, GradientEdge]] = []
        self._watches: list[AbstractContextManager[object]] = []

    def __enter__(self) -> Tape:
        self._thread = get_ident()  # others may use the network meanwhile, under their own tapes
        for name, module in self.modules.items():
            if isinstance(module, Bare):
                self._handles += self._watched(name, module)
            else:
                keep = partial(self._keep, name)
                self._handles.append(module.register_forward_hook(keep, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()

    def _keep(self, name: str, module: nn.Module, args: tuple[Any, ...], *more: Any) -> None:
        """Keep a layer's input and the edge of its output: a forward hook.

        `more` is (kwargs, out); in a pass of another thread that came between a hook and its mark
        `with_kwargs`, which torch sets and takes away one after the other, it is (out,).
        """
        if get_ident() != self._thread or not torch.is_grad_enabled():
            return
        kwargs, out = more
        if ".lora_A." in name and is_identity(args[0]):
            return
        if not out.requires_grad:
            out.requires_grad_()
        if torch._C._current_graph_task_id() != -1:  # within a backward pass
            return
        # The edge, not the tensor: later in-place changes of `out` must not move it.
        x = slope(module, args, kwargs) if is_dora(type(module)) else args[0].detach()
        self._seen.append((name, x, get_gradient_edge(out)))

    def _watched(self, name: str, layer: Bare) -> Iterator[RemovableHandle]:
        """Watch a parameter while the module that uses it runs, within its forward alone.

        A mode that stood open while a generator waits would be everybody's.
        """
        begin = partial(self._begin, name, layer)
        yield layer.owner.register_forward_pre_hook(begin)
        yield layer.owner.register_forward_hook(self._end, always_call=True)

    def _begin(self, name: str, layer: Bare, *_: object) -> None:
        if get_ident() == self._thread:
            watch = Watch(layer, partial(self._keep_use, name))
            self._watches.append(watch if torch.is_grad_enabled() else nullcontext())
            self._watches[-1].__enter__()

    def _keep_use(self, name: str, use: Use) -> None:
        if torch._C._current_graph_task_id() == -1:
            self._seen.append((name, use, get_gradient_edge(use.copies)))

    def _end(self, *_: object) -> None:
        if get_ident() == self._thread:
            self._watches.pop().__exit__(None, None, None)

    def calls(
        self, out: Float[Tensor, "b ..."], delta: Float[Tensor, "b ..."]
    ) -> Iterator[tuple[str, list[Call]]]:
        """Yield (layer, its calls in the pass), with gy = d<out, delta>/dy for each call.

        Consumes the recording and the graph of `out`. A layer that was not called, or whose output
        `out` does not depend on, is not yielded.
        """
        found: dict[str, list[Call]] = {}
        seen, self._seen = self._seen, []
        edges = [edge for _, _, edge in seen]
        if not edges:  # none of the modules had a part in the pass
            return
        upstream = torch.autograd.grad(out, edges, grad_outputs=delta, allow_unused=True)
        for (name, x, _), gy in zip(seen, upstream, strict=True):
            if gy is None:
                continue
            if isinstance(x, Use):
                _require_rows(name, gy, out)
                x, gy = x.leaf, x.pulled_back(gy)
            found.setdefault(name, []).append((x, gy))
        del seen, edges, upstream  # so that a layer's tensors go once it has been dealt with
        while found:
            name = next(iter(found))
            yield name, found.pop(name)

    def gradients(
        self, out: Float[Tensor, "b ..."], delta: Float[Tensor, "b ..."]
    ) -> Iterator[tuple[str, Float[Tensor, "b d"]]]:
        """Yield (layer, per-sample gradient), numbers in the order of the layer's parameters."""
        for name, calls in self.calls(out, delta):
            yield name, per_sample(self.modules[name], calls)


def _require_rows(name: str, gy: Tensor, out: Tensor) -> None:
    if len(gy) != len(out):
        raise ParameterError(
            f"the model uses its parameter {name} where a batch of {len(out)} has {len(gy)} rows, "
            "so that no sample has a gradient of its own: leave it out with --parameters"
        )


def unit_rms(delta: Float[Tensor, "b ..."]) -> tuple[Float[Tensor, "b ..."], Float[Tensor, " b"]]:
    """Delta with each sample scaled to a root mean square of 1, and the scales; 0 stays 0."""
    flat = widened(delta).flatten(1)
    # the largest entry first, so that squares stay in range
    largest = flat.abs().amax(1).clamp_min(TINY)
    scale = largest * (flat / largest[:, None]).square().mean(1).sqrt()
    unit = flat / scale.clamp_min(TINY)[:, None]
    return unit.reshape(delta.shape).to(delta.dtype), scale
