"""delta: what each method asks of the prediction.

Every function returns the gradient of a loss with respect to eps, up to a positive constant, so
that `J^T delta` is the gradient of that loss with respect to the weights. Lower loss is better for
the sample, or for the concept. Each takes a probe whose graph is alive and leaves it alive.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.denoiser import Denoiser
from headwater.probes import Probe

Delta = Float[Tensor, "b c h w"]


def dsm(probe: Probe) -> Delta:
    """Denoising score matching, ||eps - noise||^2: delta = eps - noise (TRAK)."""
    assert probe.noise is not None, "dsm needs a path that draws noise"
    return probe.eps.detach() - probe.noise


def dps(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """Diffusion posterior sampling towards x0 (Concept-TRAK section 3.1).

    delta = -sqrt(1-alpha_bar) * grad_xt ||x0 - x0hat(xt)||^2; the gradient runs through the
    network, one backward pass to the input.
    """
    with torch.enable_grad():
        error = (x0 - denoiser.clean(probe.xt, probe.t, probe.eps)).square().sum()
    (gradient,) = torch.autograd.grad(error, probe.xt, retain_graph=True)
    return -((1 - denoiser.alpha_bar[probe.t]) ** 0.5) * gradient


@torch.no_grad()
def concept(denoiser: Denoiser, probe: Probe, plus: Tensor | None, minus: Tensor) -> Delta:
    """The concept slider (Concept-TRAK section 3.2): delta = -(eps(c+) - eps(c-)).

    `plus` is the condition c+, or None where the base prompt is c+: the probe then holds its
    prediction already.
    """
    eps_plus = probe.eps if plus is None else denoiser.predict(probe.xt, probe.t, plus)
    return denoiser.predict(probe.xt, probe.t, minus) - eps_plus
