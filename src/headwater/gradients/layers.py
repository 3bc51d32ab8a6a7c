r"""Per-sample gradients of one layer, from its input x and the gradient gy of its output.

One function for each kind of layer; `GRADIENTS` is the table. Each returns [b, d] with the numbers
in the order of `module.parameters(recurse=False)`: the weight row by row, then the bias. What is
not in the table is not attributed. A layer that is linear in its tokens or patches also has its
gradient as `factors`: g = sum over places of gy x^T, for projections that never form it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

# One call of a layer in a forward pass: its input, and the gradient of its output.
Call = tuple[Tensor, Tensor]


def linear(
    layer: nn.Linear, x: Float[Tensor, "b *tokens i"], gy: Float[Tensor, "b *tokens o"]
) -> Float[Tensor, "b d"]:
    """The sum over tokens of gy x^T, and of gy."""
    x, gy = _tokens(x), _tokens(gy)
    weight = (gy.transpose(1, 2) @ x).flatten(1)  # [b, o*i]
    return _joined(layer, weight, gy.sum(1))


def _tokens(x: Float[Tensor, "b *tokens i"]) -> Float[Tensor, "b t i"]:
    return x.reshape(x.shape[0], -1, x.shape[-1])


def convolution(
    layer: nn.Conv1d | nn.Conv2d, x: Float[Tensor, "b i *space"], gy: Float[Tensor, "b o *out"]
) -> Float[Tensor, "b d"]:
    """A linear layer over patches: the sum over places of gy patch^T, group by group."""
    patches = _patches(layer, x)
    b, groups, gy = len(x), layer.groups, gy.flatten(2)
    patches = patches.reshape(b, groups, -1, patches.shape[-1])
    grouped = gy.reshape(b, groups, -1, gy.shape[-1])
    weight = (grouped @ patches.transpose(2, 3)).flatten(1)  # [b, o * (i/groups) * kernel]
    return _joined(layer, weight, gy.sum(2))


def _patches(layer: Any, x: Float[Tensor, "b i *space"]) -> Float[Tensor, "b patch places"]:
    """What the kernel sees at each place: [b, i * kernel, places]."""
    if layer.padding_mode != "zeros":
        mode = layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        padding: Any = (0,) * len(layer.kernel_size)
    elif isinstance(layer.padding, str):  # "same" or "valid"
        x = F.pad(x, layer._reversed_padding_repeated_twice)
        padding = (0,) * len(layer.kernel_size)
    else:
        padding = layer.padding
    geometry = (layer.kernel_size, layer.dilation, padding, layer.stride)
    if x.ndim == 3:  # one dimension is two of which the first has length 1
        x, filled = x.unsqueeze(2), (1, 1, 0, 1)
        geometry = tuple((fill, *size) for fill, size in zip(filled, geometry, strict=True))
    kernel, dilation, padding, stride = geometry
    return F.unfold(x, kernel, dilation, padding, stride)


def group_norm(
    layer: nn.GroupNorm, x: Float[Tensor, "b c *space"], gy: Float[Tensor, "b c *space"]
) -> Float[Tensor, "b d"]:
    """Scale and shift of each channel, summed over places."""
    normalised = F.group_norm(x, layer.num_groups, eps=layer.eps)
    weight = (gy * normalised).reshape(*gy.shape[:2], -1).sum(2)
    return _joined(layer, weight, gy.reshape(*gy.shape[:2], -1).sum(2))


def layer_norm(
    layer: nn.LayerNorm, x: Float[Tensor, "b ..."], gy: Float[Tensor, "b ..."]
) -> Float[Tensor, "b d"]:
    """Scale and shift of each normalised coordinate, summed over tokens."""
    size = layer.weight.numel()
    normalised = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    weight = (gy * normalised).reshape(len(gy), -1, size).sum(1)
    return _joined(layer, weight, gy.reshape(len(gy), -1, size).sum(1))


def embedding(
    layer: nn.Embedding, x: Int[Tensor, "b ..."], gy: Float[Tensor, "b ... e"]
) -> Float[Tensor, "b d"]:
    """Each row that was looked up gets the gradients of its places."""
    rows, width = layer.weight.shape
    gy = gy.reshape(len(gy), -1, width)
    x = x.reshape(len(x), -1, 1).expand(gy.shape)
    found = gy.new_zeros(len(gy), rows, width).scatter_add_(1, x, gy)
    if layer.padding_idx is not None:  # autograd leaves that row out
        found[:, layer.padding_idx] = 0
    return found.flatten(1)


def _joined(layer: nn.Module, weight: Tensor, bias: Tensor) -> Tensor:
    return weight if layer.bias is None else torch.cat([weight, bias], 1)


Gradient = Callable[[Any, Tensor, Tensor], Tensor]

GRADIENTS: dict[type[nn.Module], Gradient] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.Embedding: embedding,
}


def gradient_of(layer: nn.Module) -> Gradient | None:
    """The function for this layer, its class or a base class of it; None if there is none."""
    return next((GRADIENTS[kind] for kind in type(layer).__mro__ if kind in GRADIENTS), None)


def per_sample(layer: nn.Module, calls: Sequence[Call]) -> Float[Tensor, "b d"]:
    """The gradient of each sample in float32 or better, summed over the layer's calls.

    Raises:
        KeyError: the layer is not in the table.
    """
    gradient = gradient_of(layer)
    if gradient is None:
        raise KeyError(f"{type(layer).__name__} is not in the table of layers")
    first, *more = (widened(gradient(layer, x, gy)) for x, gy in calls)
    for rows in more:
        first = first + rows
    return first


def is_outer_product(layer: nn.Module) -> bool:
    """Whether the layer's gradient is a sum over tokens or patches of gy x^T."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return layer.groups == 1
    return isinstance(layer, nn.Linear)


def factors(
    layer: Any, x: Tensor, gy: Tensor
) -> tuple[Float[Tensor, "b t i"], Float[Tensor, "b t o"]]:
    """(x, gy) of one call as tokens: the gradient is the sum over tokens of gy x^T.

    x has a last column of ones where the layer has a bias. For layers that are `is_outer_product`.
    """
    if isinstance(layer, nn.Linear):
        x, gy = _tokens(x), _tokens(gy)
    else:
        x, gy = _patches(layer, x).transpose(1, 2), gy.flatten(2).transpose(1, 2)
    if layer.bias is not None:
        x = torch.cat([x, torch.ones_like(x[..., :1])], 2)
    return x, gy


def widened(x: Tensor) -> Tensor:
    """Half precision as float32; norms and sums are never taken in less."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def attributable(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of every layer in the table that has parameters, in the network's order."""
    for name, layer in network.named_modules():
        if gradient_of(layer) is not None and size(layer) > 0:
            yield name, layer


def size(layer: nn.Module) -> int:
    """d: how many numbers this layer's gradient has."""
    return sum(parameter.numel() for parameter in layer.parameters(recurse=False))
