r"""Per-sample gradients of one layer, from its input x and the gradient gy of its output.

One function for each kind of layer; `GRADIENTS` is the table, and `gradient_of` says which function
is whose. Each returns a tensor [b, numbers] for the weight, row by row, and one for the bias where
its kind may have one; `per_sample` joins those that the layer has. What no function is for is not
attributed. A layer that is linear in its tokens or patches also has its gradient as `factors`:
g = sum over places of gy x^T, for projections that never form it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headwater.gradients.adapters import adapter_factors, factor_gradients
from headwater.gradients.bare import Bare, bare, bare_parameters
from headwater.gradients.convolutions import convolution, patches, transposed_convolution
from headwater.gradients.dora import is_dora, magnitude, uses_bias_of
from headwater.gradients.norms import group_norm, is_norm, layer_norm, own_norm

# One call of a layer in a forward pass: its input, and the gradient of its output.
Call = tuple[Tensor, Tensor]


def linear(
    layer: nn.Linear, x: Float[Tensor, "b *tokens i"], gy: Float[Tensor, "b *tokens o"]
) -> tuple[Float[Tensor, "b w"], Float[Tensor, "b o"]]:
    """The sum over tokens of gy x^T, and of gy."""
    x, gy = _tokens(x), _tokens(gy)
    return (gy.transpose(1, 2) @ x).flatten(1), gy.sum(1)  # [b, o*i], [b, o]


def _tokens(x: Float[Tensor, "b *tokens i"]) -> Float[Tensor, "b t i"]:
    return x.reshape(x.shape[0], -1, x.shape[-1])


def embedding(
    layer: nn.Embedding, x: Int[Tensor, "b ..."], gy: Float[Tensor, "b ... e"]
) -> tuple[Float[Tensor, "b w"]]:
    """Each row that was looked up gets the gradients of its places."""
    rows, width = layer.weight.shape
    gy = gy.reshape(len(gy), -1, width)
    x = x.reshape(len(x), -1, 1).expand(gy.shape)
    found = gy.new_zeros(len(gy), rows, width).scatter_add_(1, x, gy)
    if layer.padding_idx is not None:  # autograd leaves that row out
        found[:, layer.padding_idx] = 0
    return (found.flatten(1),)


def adapted(layer: Any, x: Tensor, gy: Tensor) -> tuple[Float[Tensor, "b _"], ...]:
    """By each factor of a layer's adapters, from the gradient of the layer that they change."""
    base = layer.get_base_layer()
    gradient = gradient_of(base)
    assert gradient is not None, "there is none for an adapter of an unknown layer"
    return factor_gradients(layer, gradient(base, x, gy)[0])


Gradient = Callable[[Any, Tensor, Tensor], tuple[Tensor, ...]]

GRADIENTS: dict[type[nn.Module], Gradient] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.ConvTranspose1d: transposed_convolution,
    nn.ConvTranspose2d: transposed_convolution,
    nn.ConvTranspose3d: transposed_convolution,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: own_norm,
    nn.Embedding: embedding,
    Bare: bare,
}


def gradient_of(layer: nn.Module) -> Gradient | None:
    """The function for this layer, by its class or a base class of it; None if there is none.

    There is none for a layer with other parameters than a weight and perhaps a bias: a norm without
    a weight, or a layer whose weight is made of several (weight norm). A layer with adapters that
    are no layers themselves has their factors for parameters (`gradients.adapters`).
    """
    if adapter_factors(layer):
        inside: Any = layer
        return None if gradient_of(inside.get_base_layer()) is None else adapted
    names = [name for name, _ in layer.named_parameters(recurse=False)]
    if names not in (["weight"], ["weight", "bias"]):
        return None
    for kind in type(layer).__mro__:
        if kind in GRADIENTS:
            return GRADIENTS[kind]
        if is_dora(kind):
            return magnitude
        if is_norm(kind):  # before a base of torch's, whose arithmetic it may override
            return own_norm
    return None


def per_sample(layer: nn.Module, calls: Sequence[Call]) -> Float[Tensor, "b d"]:
    """The gradient of each sample in float32 or better, summed over the layer's calls.

    The numbers are in the order of `parameters_of(layer)`.

    Raises:
        KeyError: there is no function for the layer.
    """
    gradient = gradient_of(layer)
    if gradient is None:
        raise KeyError(f"{type(layer).__name__} is no kind of layer with per-sample gradients")
    count = len(parameters_of(layer))
    return summed(_joined(gradient(layer, x, gy)[:count]) for x, gy in calls)


def _joined(parts: Sequence[Float[Tensor, "b _"]]) -> Float[Tensor, "b d"]:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def is_outer_product(layer: nn.Module) -> bool:
    """Whether the layer's gradient is a sum over tokens or patches of gy x^T."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return layer.groups == 1
    return isinstance(layer, nn.Linear)


def factors(
    layer: Any, x: Tensor, gy: Tensor
) -> tuple[Float[Tensor, "b t i"], Float[Tensor, "b t o"]]:
    """(x, gy) of one call as tokens: the gradient is the sum over tokens of gy x^T.

    x has a last column of ones where the layer has a bias. For layers that are `is_outer_product`.
    """
    x, gy = sides(layer, x, gy)
    if layer.bias is not None:
        x = torch.cat([x, torch.ones_like(x[..., :1])], 2)
    return x, gy


def sides(
    layer: Any, x: Tensor, gy: Tensor
) -> tuple[Float[Tensor, "b t i"], Float[Tensor, "b t o"]]:
    """The same without a column for the bias."""
    if isinstance(layer, nn.Linear):
        return _tokens(x), _tokens(gy)
    return patches(layer, x).transpose(1, 2), gy.flatten(2).transpose(1, 2)


def summed(parts: Iterable[Float[Tensor, "b n"]]) -> Float[Tensor, "b n"]:
    """The sum over calls, in float32 or better."""
    first, *more = map(widened, parts)
    for part in more:
        first = first + part
    return first


def widened(x: Tensor) -> Tensor:
    """Half precision as float32; norms and sums are never taken in less."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def attributable(network: nn.Module, mixed: Sequence[str] = ()) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of every layer that `gradient_of` has a function for, in network order.

    Parameters that stand in no layer are `Bare`, after the module that holds them. A layer whose
    bias another module uses (DoRA) is none of them.

    Args:
        mixed: names of modules that take a batch as one sequence, where no sample has a row of its
            own; neither they nor what is inside them (adapters) are attributed.
    """
    without = list(mixed)
    for name, module in network.named_modules():
        without += [f"{name}.{part}" for part in [uses_bias_of(module)] if part]
        for each, layer in ((name, module), *bare_parameters(name, module)):
            inside = any(each == part or each.startswith(f"{part}.") for part in without)
            if gradient_of(layer) is not None and not inside:
                yield each, layer


def layers_named(network: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    """The layers of names that `attributable` gave, in network order; other names are left out.

    Only these are asked whether there is a gradient: three times as fast as to list all.
    """
    wanted = set(names)
    return {
        each: layer
        for name, module in network.named_modules()
        for each, layer in ((name, module), *bare_parameters(name, module))
        if each in wanted and gradient_of(layer) is not None
    }


def parameters_of(layer: nn.Module) -> list[nn.Parameter]:
    """Those of the layer itself, which its gradient is by, in its order."""
    return list((adapter_factors(layer) or dict(layer.named_parameters(recurse=False))).values())


def size(layer: nn.Module) -> int:
    """d: how many numbers this layer's gradient has."""
    return sum(parameter.numel() for parameter in parameters_of(layer))
