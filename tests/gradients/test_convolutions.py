"""What a call of a convolution may ask for; the kinds of layers themselves are in test_layers."""

import pytest
import torch
from support.layer_cases import assert_exact, drawn, exact
from torch import nn

from headwater.gradients.layers import per_sample


@pytest.mark.parametrize("size", [10, 11, 12])
@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_a_size_asked_of_a_transposed_convolution(kind, size):
    """It takes the place of the layer's own `output_padding`."""
    dimensions = int(kind.__name__[-2])
    layer = kind(2, 3, 3, stride=3, padding=1, output_padding=1)
    layer, x, _ = drawn(layer, (2, *[4] * dimensions))
    asked = dict(output_size=[size] * dimensions)
    gy = torch.randn_like(layer(x, **asked)).detach()
    assert_exact(per_sample(layer, [(x, gy)]), exact(layer, x, gy, **asked))
