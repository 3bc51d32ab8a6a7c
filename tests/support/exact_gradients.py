"""Gradients by plain float64 autograd."""

import torch

from headwater.features.extractor import Extractor
from headwater.features.spec import Side
from headwater.gradients.layers import size
from headwater.gradients.projection import make_projection

INVERTED, NOISED = Side("inversion", "dps"), Side("noising", "dsm")


def unprojected(denoiser, timesteps, normalise="none", train=INVERTED, guidance=1.0):
    """An extractor that keeps every coordinate in its own place."""
    layers = denoiser.layers("attn2")
    kept = make_projection("identity", layers, sum(map(size, layers.values())), 0)
    return Extractor(denoiser, layers, kept, train, timesteps, normalise, 0, 1, guidance)


def gradient(denoiser, loss):
    """The exact gradient of a loss, in the order of `unprojected`."""
    weights = [p for m in denoiser.layers("attn2").values() for p in m.parameters()]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
