"""Gradients by plain float64 autograd."""

from dataclasses import replace

import torch

from headwater.features.extractor import Extractor
from headwater.features.spec import Side
from headwater.gradients.layers import parameters_of, size
from headwater.gradients.projection import make_projection
from headwater.gradients.vjp import Tape
from headwater.models.patches import for_gradients

INVERTED, NOISED = Side("inversion", "dps"), Side("noising", "dsm")


def unprojected(denoiser, timesteps, normalise="none", train=INVERTED, guidance=1.0):
    """An extractor that keeps every coordinate in its own place."""
    layers = denoiser.layers("attn2")
    kept = make_projection("identity", layers, sum(map(size, layers.values())), 0)
    train = replace(train, guidance=guidance)
    return Extractor(denoiser, layers, kept, train, timesteps, normalise, 0)


def gradient(denoiser, loss):
    """The exact gradient of a loss, in the order of `unprojected`."""
    weights = [p for m in denoiser.layers("attn2").values() for p in m.parameters()]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


def layer_errors(denoiser, layers, xt, t, condition):
    """Of each layer, how far per-sample gradients are from autograd's, relative to the largest.

    Of a random delta; layers that the output does not depend on are left out on both sides.
    """
    delta = torch.randn_like(xt)
    with for_gradients(denoiser, list(layers.values())), Tape(layers) as tape:
        out = denoiser.predict(xt.clone().requires_grad_(), t, condition)
        ours = dict(tape.gradients(out, delta))
    exact = {name: [] for name in layers}
    for i in range(len(xt)):
        out = denoiser.predict(xt[i : i + 1], t, condition[[i]])
        weights = [p for layer in layers.values() for p in parameters_of(layer)]
        found = torch.autograd.grad(out, weights, delta[i : i + 1], allow_unused=True)
        parts = iter(found)
        for name, layer in layers.items():
            own = [next(parts) for _ in parameters_of(layer)]
            if all(part is not None for part in own):
                exact[name].append(torch.cat([part.flatten() for part in own]))
    rows = {name: torch.stack(parts) for name, parts in exact.items() if parts}
    largest = max(each.norm() for each in rows.values())
    assert rows.keys() == ours.keys(), rows.keys() ^ ours.keys()
    return {
        name: ((ours[name] - each).norm() / each.norm().clamp_min(1e-6 * largest)).item()
        for name, each in rows.items()
    }
