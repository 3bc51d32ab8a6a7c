r"""Gradients in the metric of the curvature: what is left is a dot product.

The influence of a training image i on a question q is g_q^T (F + lambda)^-1 g_i (Koh & Liang 2017;
of diffusion models Mlodozeniec et al. 2025). Rows of images hold (F + lambda0)^-1/2 g_i before they
are projected, rows of questions (F + lambda0)^1/2 (F + lambda)^-1 g_q, so that their dot product is
the influence at any damping lambda without another pass over the images.

lambda is a multiple of the mean moment of each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.curvature.basis import Basis, gradient_in, sizes_in
from headwater.gradients.blocks import Form
from headwater.gradients.layers import Call
from headwater.gradients.vjp import TINY

# Of rows that an index holds.
DAMPING = 0.01


@dataclass(frozen=True)
class LayerCurvature:
    """A layer's basis, and the moments along its axes."""

    basis: Basis
    moments: Float[Tensor, " d"]

    def damped(self, ratio: float) -> Float[Tensor, " d"]:
        """Moments + lambda, for lambda this multiple of their mean."""
        return (self.moments + ratio * self.moments.mean()).clamp_min(TINY)


Curvature = Mapping[str, LayerCurvature]


def whitened(layer: nn.Module, curvature: LayerCurvature, damping: float = DAMPING) -> Form:
    """The layer's gradient for rows of images, or of questions at a damping.

    At the index's own damping both are (F + lambda0)^-1/2 g.
    """
    scale = curvature.damped(DAMPING).sqrt() / curvature.damped(damping)
    return _scaled(layer, curvature.basis, scale)


def in_basis(layer: nn.Module, curvature: LayerCurvature) -> Form:
    """The gradient as it is, in the basis."""
    return _scaled(layer, curvature.basis, torch.ones_like(curvature.moments))


def _scaled(layer: nn.Module, basis: Basis, scale: Tensor) -> Form:
    sizes = sizes_in(basis, layer)
    scales = scale.split(sizes)

    def blocks(calls: Sequence[Call]) -> Iterator[Tensor]:
        for part, by in zip(gradient_in(basis, layer, calls), scales, strict=True):
            yield part.mul_(by)

    return Form(layer, sizes, blocks)
