r"""Per-sample gradients of convolutions, which are linear layers over patches.

At each place a convolution's kernel sees a patch of the input x, and the weight's gradient is the
sum over places of gy patch^T. A transposed convolution is the adjoint of one that leads from its
output to its input, so there x and gy change places: the kernel sees patches of gy, and the
gradient is the sum over places of x patch^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def convolution(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d,
    x: Float[Tensor, "b i *space"],
    gy: Float[Tensor, "b o *out"],
) -> tuple[Float[Tensor, "b w"], Float[Tensor, "b o"]]:
    """The sum over places of gy patch^T, group by group, and of gy."""
    gy = gy.flatten(2)
    return _sum_of_products(gy, patches(layer, x), layer.groups), gy.sum(2)


def transposed_convolution(
    layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d,
    x: Float[Tensor, "b i *space"],
    gy: Float[Tensor, "b o *out"],
) -> tuple[Float[Tensor, "b w"], Float[Tensor, "b o"]]:
    """The sum over places of x patch^T, group by group, with patches of gy; and the sum of gy."""
    geometry: Any = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    around: list[int] = []
    for places, size, kernel, gap, start, step in zip(
        x.shape[2:], gy.shape[2:], *geometry, strict=True
    ):
        # from the shapes, since a call's `output_size` overrules the layer's `output_padding`
        end = (places - 1) * step + gap * (kernel - 1) + 1 - size - start
        around = [start, end, *around]  # as F.pad wants it: the last axis first, negative to cut
    seen = _unfolded(layer, F.pad(gy, around), (0,) * len(layer.kernel_size))
    return _sum_of_products(x.flatten(2), seen, layer.groups), gy.flatten(2).sum(2)


def patches(layer: Any, x: Float[Tensor, "b i *space"]) -> Float[Tensor, "b patch places"]:
    """What a convolution's kernel sees at each place: [b, i * kernel, places]."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return _unfolded(layer, x, layer.padding)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    return _unfolded(layer, x, (0,) * len(layer.kernel_size))


def _unfolded(
    layer: Any, x: Float[Tensor, "b c *space"], padding: Sequence[int]
) -> Float[Tensor, "b patch places"]:
    """What the layer's kernel sees at each place of x, with zeros around it."""
    geometry: Any = (layer.kernel_size, layer.dilation, padding, layer.stride)
    if x.ndim == 5:  # `F.unfold` knows two dimensions
        return _unfolded_in_space(x, *geometry)
    if x.ndim == 3:  # one dimension is two of which the first has length 1
        x, filled = x.unsqueeze(2), (1, 1, 0, 1)
        geometry = ((fill, *size) for fill, size in zip(filled, geometry, strict=True))
    return F.unfold(x, *geometry)


def _unfolded_in_space(
    x: Float[Tensor, "b c z y x"],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Float[Tensor, "b patch places"]:
    """`F.unfold` in three dimensions: views of x, copied once."""
    x = F.pad(x, [size for size in reversed(padding) for _ in range(2)])
    for axis, (size, gap, step) in enumerate(zip(kernel, dilation, stride, strict=True), start=2):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]  # the kernel's axis comes last
    x = x.permute(0, 1, 5, 6, 7, 2, 3, 4)  # [b, c, *kernel, *out]
    return x.flatten(5).flatten(1, 4)


def _sum_of_products(
    rows: Float[Tensor, "b r places"], seen: Float[Tensor, "b patch places"], groups: int
) -> Float[Tensor, "b w"]:
    """The sum over places of rows patch^T in each group: [b, r * patch / groups]."""
    grouped = rows.unflatten(1, (groups, -1))
    seen = seen.unflatten(1, (groups, -1))
    return (grouped @ seen.transpose(2, 3)).flatten(1)
