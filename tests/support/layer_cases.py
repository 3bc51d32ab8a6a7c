"""Layers of every kind of torch's own, the shapes of their inputs, and float64 autograd on them."""

import torch
from torch import nn

CASES = {
    "linear, vectors": (nn.Linear(3, 4), (3,)),
    "linear, tokens": (nn.Linear(3, 4), (7, 3)),
    "linear, grid of tokens": (nn.Linear(3, 4), (2, 5, 3)),
    "linear, no bias": (nn.Linear(3, 4, bias=False), (7, 3)),
    "conv2d": (nn.Conv2d(4, 6, 3, padding=1), (4, 7, 5)),
    "conv2d, no bias": (nn.Conv2d(4, 6, 3, bias=False), (4, 7, 5)),
    "conv2d, stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 8, 8)),
    "conv2d, stride that leaves a rest": (nn.Conv2d(4, 6, 3, stride=2), (4, 8, 9)),
    "conv2d, oblong": (nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 2)), (4, 8, 9)),
    "conv2d, dilation": (nn.Conv2d(4, 6, 3, dilation=2, padding=2), (4, 9, 7)),
    "conv2d, groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 7, 7)),
    "conv2d, depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 7, 7)),
    "conv2d, same": (nn.Conv2d(4, 6, (3, 5), padding="same"), (4, 7, 7)),
    "conv2d, valid": (nn.Conv2d(4, 6, 4, padding="valid"), (4, 7, 7)),
    "conv2d, circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 7, 7)),
    "conv2d, reflect": (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (4, 7, 7)),
    "conv2d, pointwise": (nn.Conv2d(4, 6, 1), (4, 7, 7)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), (4, 11)),
    "conv1d, groups": (nn.Conv1d(4, 6, 3, groups=2), (4, 11)),
    "conv1d, same": (nn.Conv1d(4, 6, 3, padding="same", dilation=2), (4, 11)),
    "conv3d": (nn.Conv3d(2, 3, 3, padding=1), (2, 3, 4, 5)),
    "conv3d, no bias": (nn.Conv3d(2, 3, 2, bias=False), (2, 3, 4, 5)),
    "conv3d, patches": (nn.Conv3d(2, 3, (1, 2, 2), stride=(1, 2, 2)), (2, 3, 4, 6)),
    "conv3d, stride that leaves a rest": (nn.Conv3d(2, 3, 2, stride=(1, 2, 3)), (2, 3, 5, 7)),
    "conv3d, oblong": (nn.Conv3d(2, 3, (1, 3, 2), padding=(0, 2, 1)), (2, 3, 4, 5)),
    "conv3d, dilation": (nn.Conv3d(2, 3, 2, dilation=(1, 2, 3), padding=1), (2, 3, 4, 5)),
    "conv3d, groups": (nn.Conv3d(4, 6, 2, groups=2, padding=1), (4, 3, 4, 3)),
    "conv3d, depthwise": (nn.Conv3d(3, 6, 2, groups=3), (3, 3, 4, 3)),
    "conv3d, same": (nn.Conv3d(2, 3, (3, 1, 5), padding="same"), (2, 3, 4, 5)),
    "conv3d, valid": (nn.Conv3d(2, 3, 2, padding="valid"), (2, 3, 4, 5)),
    "conv3d, circular": (nn.Conv3d(2, 3, 3, padding=1, padding_mode="circular"), (2, 3, 4, 5)),
    "conv3d, reflect": (
        nn.Conv3d(2, 3, 3, padding=(0, 1, 2), padding_mode="reflect"),
        (2, 3, 4, 5),
    ),
    "conv3d, same, one more on one side": (
        nn.Conv3d(2, 3, (3, 2, 4), padding="same", padding_mode="replicate"),
        (2, 3, 4, 5),
    ),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, dilation=2), (4, 7)),
    "transposed 1d, groups": (nn.ConvTranspose1d(4, 6, 3, groups=2), (4, 7)),
    "transposed 2d": (nn.ConvTranspose2d(4, 6, 3), (4, 5, 4)),
    "transposed 2d, no bias": (nn.ConvTranspose2d(4, 6, 3, bias=False), (4, 5, 4)),
    "transposed 2d, doubles": (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (4, 5, 4)),
    "transposed 2d, output padding": (
        nn.ConvTranspose2d(4, 6, 3, stride=(2, 3), padding=1, output_padding=(1, 2)),
        (4, 5, 4),
    ),
    "transposed 2d, output padding beyond the stride": (
        nn.ConvTranspose2d(4, 6, 3, stride=1, dilation=3, padding=2, output_padding=2),
        (4, 5, 4),
    ),
    "transposed 2d, gaps that the kernel leaves": (
        nn.ConvTranspose2d(4, 6, 2, stride=3, output_padding=2),
        (4, 5, 4),
    ),
    "transposed 2d, oblong": (
        nn.ConvTranspose2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
        (4, 5, 4),
    ),
    "transposed 2d, groups": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 4)),
    "transposed 2d, depthwise": (nn.ConvTranspose2d(4, 8, 3, padding=1, groups=4), (4, 5, 4)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, (1, 2, 3)), (2, 3, 2, 4)),
    "transposed 3d, all at once": (
        nn.ConvTranspose3d(
            4, 6, (1, 2, 3), (1, 2, 2), (0, 1, 1), (0, 1, 1), groups=2, dilation=(1, 1, 2)
        ),
        (4, 3, 2, 4),
    ),
    "group norm": (nn.GroupNorm(2, 6), (6, 5, 4)),
    "group norm, vectors": (nn.GroupNorm(3, 6), (6,)),
    "layer norm": (nn.LayerNorm(6), (5, 6)),
    "layer norm, no bias": (nn.LayerNorm(6, bias=False), (5, 6)),
    "layer norm, two axes": (nn.LayerNorm([5, 6]), (3, 5, 6)),
    "rms norm": (nn.RMSNorm(6), (5, 6)),
    "rms norm, vectors": (nn.RMSNorm(6, eps=1e-3), (6,)),
    "rms norm, two axes": (nn.RMSNorm([5, 6]), (3, 5, 6)),
}


def exact(layer, x, gy, **options):
    """The gradients [b, d] of <layer(x), gy>, sample by sample; `options` of the call."""
    rows = []
    for i in range(len(x)):
        out = layer(x[i : i + 1], **options)
        found = torch.autograd.grad(out, list(layer.parameters()), gy[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def drawn(layer, shape):
    """The layer in float64 with parameters drawn anew, five inputs of this shape, and a gy."""
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(5, *shape).double()
    return layer, x, torch.randn_like(layer(x)).detach()


def assert_exact(ours, truth, near=1e-9):
    """Within `near`, of each number and of the largest."""
    torch.testing.assert_close(ours, truth, rtol=near, atol=near * truth.abs().max().item())
