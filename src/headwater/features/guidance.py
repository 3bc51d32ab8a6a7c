"""delta: what each method asks of the prediction.

Every function returns the gradient of a loss with respect to eps, up to a positive constant, so
that `J^T delta` is the gradient of that loss with respect to the weights. Lower loss is better for
the sample, or for the concept. Each takes a probe whose graph is alive and leaves it alive.
`DELTAS` is the table of those that ask about a picture x0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.features.probes import Probe
from headwater.gradients.vjp import TINY, unit_rms
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import seeded_noise

Delta = Float[Tensor, "b c h w"]
# Images as the model makes them, [b, 3, h, w] from 0 to 1, -> a number for each, higher is better.
Reward = Callable[[Tensor], Tensor]


def dsm(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """Denoising score matching, ||eps - noise||^2: delta = eps - noise (TRAK)."""
    assert probe.noise is not None, "dsm needs a path that draws noise"
    return probe.eps.detach() - probe.noise


def dps(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """Diffusion posterior sampling towards x0 (Concept-TRAK section 3.1).

    delta = -sqrt(1-alpha_bar) * grad_xt ||x0 - x0hat(xt)||^2; the gradient runs through the
    network, one backward pass to the input. With r = x0hat - x0 and the network's Jacobian J it is
    2 (r - sqrt(1-alpha_bar) J^T r) / sqrt(alpha_bar); r goes through the network at unit size.
    """
    _, noise = denoiser.signal_noise(probe.t)
    error = denoiser.clean(probe.xt.detach(), probe.t, probe.eps.detach()) - x0
    return -noise * _pulled_back(denoiser, probe, error)


def _pulled_back(denoiser: Denoiser, probe: Probe, error: Tensor) -> Tensor:
    """2 (d x0hat / d xt)^T error, the gradient of ||x0hat - a||^2 for error = x0hat - a."""
    signal, noise = denoiser.signal_noise(probe.t)
    unit, scale = unit_rms(error)
    (pulled,) = torch.autograd.grad(probe.eps, probe.xt, unit, retain_graph=True)
    return (unit - noise * pulled) * (2 / signal * scale).reshape(-1, 1, 1, 1)


# --- D-TRAK's outputs (Zheng 2024, table 1), and random ones for DAS ------------------------------


def square(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """||eps||^2: delta = eps."""
    return probe.eps.detach()


def mean(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """The mean of eps: delta = 1."""
    return torch.ones_like(probe.xt)


def l1(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """||eps||_1: delta = sign(eps)."""
    return probe.eps.detach().sign()


def l2(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """||eps||_2: delta = eps / ||eps||."""
    eps = probe.eps.detach()
    return eps / _norm(eps).clamp_min(TINY)


def linf(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """||eps||_inf: delta = the sign of the largest entry, at its place."""
    flat = probe.eps.detach().flatten(1)
    largest = flat.abs().argmax(1, keepdim=True)
    delta = torch.zeros_like(flat).scatter_(1, largest, flat.gather(1, largest).sign())
    return delta.reshape(probe.xt.shape)


def weighted(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """The denoising loss as the variational bound weighs it: beta / (2 alpha (1 - alpha_bar))."""
    now = denoiser.alpha_bar[probe.t].item()
    before = denoiser.alpha_bar[probe.t - 1].item() if probe.t > 0 else 1.0
    alpha = now / before
    return dsm(denoiser, probe, x0) * ((1 - alpha) / (2 * alpha * (1 - now)))


def random(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """Signs drawn for this sample, t and draw: E ||delta^T J||^2 = ||J||^2, for DAS eq. 18."""
    signs = [seeded_noise(probe.xt.shape[1:], "output", key).sign() for key in probe.keys]
    return torch.stack(signs).to(probe.xt)


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


DELTAS: dict[str, Callable[[Denoiser, Probe, Tensor], Tensor]] = {
    "dsm": dsm,
    "dps": dps,
    "square": square,
    "mean": mean,
    "l1": l1,
    "l2": l2,
    "linf": linf,
    "weighted": weighted,
    "random": random,
}


# --- what is asked of a query, other than a picture -----------------------------------------------


@torch.no_grad()
def concept(denoiser: Denoiser, probe: Probe, plus: Tensor | None, minus: Tensor) -> Delta:
    """The concept slider (Concept-TRAK section 3.2): delta = -(eps(c+) - eps(c-)).

    `plus` is the condition c+, or None where the base prompt is c+: the probe then holds its
    prediction already.
    """
    eps_plus = probe.eps if plus is None else denoiser.predict(probe.xt, probe.t, plus)
    return denoiser.predict(probe.xt, probe.t, minus) - eps_plus


def reward(denoiser: Denoiser, probe: Probe, function: Reward) -> Delta:
    """grad_xt R(x0hat(xt)), through the network and the autoencoder (Concept-TRAK C.2).

    `dps` and `concept` are this with R = -||x0 - x0hat||^2 and R = log p(c+|x)/p(c-|x).
    """
    x0hat = denoiser.clean(probe.xt.detach(), probe.t, probe.eps.detach()).requires_grad_()
    with torch.enable_grad():
        pixels = denoiser.pixels(x0hat)
        seen = pixels.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(seen).sum(), seen)
    # each part of the chain is handed a vector of unit size, so that half precision does not
    # lose the small slope of a mean over many pixels
    unit, scale = unit_rms(slope)
    (error,) = torch.autograd.grad(pixels, x0hat, unit)
    return _pulled_back(denoiser, probe, error) * (scale / 2).reshape(-1, 1, 1, 1)


def preference(denoiser: Denoiser, probe: Probe, own: Tensor, other: Tensor, sign: int) -> Delta:
    """One image's part of a preference pair (Concept-TRAK C.3).

    grad_xt of sign (||x0hat - other||^2 - ||x0hat - own||^2); sign is 1 for the better image (own,
    with the worse as other) and -1 for the worse. x0hat itself drops out of the difference.
    """
    return sign * _pulled_back(denoiser, probe, own - other)
