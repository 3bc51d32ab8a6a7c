r"""Per-sample J^T delta for chosen modules, layer by layer, without a single weight gradient.

A linear layer y = W x + b sees delta only through gy = d<eps, delta>/dy. The gradient of one
sample is then the sum over its tokens of gy x^T (and of gy for the bias). So a forward hook keeps
each layer's input and the graph edge of its output, one `torch.autograd.grad` brings all gy, and
the layers are combined, used and dropped one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle


class Tape:
    """Records the chosen modules during forward passes inside its `with` block.

    Passes under `torch.no_grad()` are not recorded, so guidance may call the model in between. A
    module whose output does not depend on what requires a gradient (cross-attention keys on a
    fixed caption) gets its output marked, so that its gy exists.
    """

    def __init__(self, modules: Mapping[str, nn.Linear]) -> None:
        self.modules = dict(modules)
        self._handles: list[RemovableHandle] = []
        self._seen: list[tuple[str, Tensor, GradientEdge]] = []

    def __enter__(self) -> Tape:
        for name, module in self.modules.items():
            self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()

    def _hook(self, name: str):
        def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            if not torch.is_grad_enabled():
                return
            if not out.requires_grad:
                out.requires_grad_()
            # The edge, not the tensor: later in-place changes of `out` must not move it.
            self._seen.append((name, args[0].detach(), get_gradient_edge(out)))

        return hook

    def clear(self) -> None:
        """Forget what was recorded."""
        self._seen.clear()

    def gradients(
        self, eps: Float[Tensor, "b ..."], delta: Float[Tensor, "b ..."]
    ) -> Iterator[tuple[str, Float[Tensor, "b d"]]]:
        """Yield (layer, per-sample gradient), d = out*in weights row by row, then out biases.

        Consumes the recording and the graph of `eps`. A layer that was called several times in
        the pass is yielded once, with the sum over its calls.
        """
        calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
        seen, self._seen = self._seen, []
        edges = [edge for _, _, edge in seen]
        upstream = torch.autograd.grad(eps, edges, grad_outputs=delta, allow_unused=True)
        for (name, x, _), gy in zip(seen, upstream, strict=True):
            if gy is not None:
                calls.setdefault(name, []).append((x, gy))
        for name, pairs in calls.items():
            bias = self.modules[name].bias is not None
            first, *more = (linear_gradient(x, gy, bias) for x, gy in pairs)
            yield name, sum(more, first)


def linear_gradient(
    x: Float[Tensor, "b *tokens i"], gy: Float[Tensor, "b *tokens o"], bias: bool
) -> Float[Tensor, "b d"]:
    """Per-sample gradient of a linear layer from its input and its output's gradient."""
    x = x.reshape(x.shape[0], -1, x.shape[-1])  # [b, tokens, i]
    gy = gy.reshape(gy.shape[0], -1, gy.shape[-1])  # [b, tokens, o]
    weight = (gy.transpose(1, 2) @ x).flatten(1)  # [b, o*i]
    return torch.cat([weight, gy.sum(1)], 1) if bias else weight


def size(module: nn.Linear) -> int:
    """d: how many numbers this layer's gradient has."""
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))
