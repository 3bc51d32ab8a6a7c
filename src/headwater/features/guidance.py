"""delta: what each method asks of the network's output.

Every function returns the gradient of a loss with respect to `out`, up to a positive constant, so
that `J^T delta` is the gradient of that loss with respect to the weights. Lower loss is better for
the sample, or for the concept. Each takes a probe whose graph is alive and leaves it alive.
`DELTAS` is the table of those that ask about a picture x0.

It is the output itself, not the noise that it implies: where x_t is noise alone that does not
depend on what a flow or v predicts, and its gradient is zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.features.probes import Probe
from headwater.gradients.vjp import TINY, unit_rms
from headwater.models.condition import Condition
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import seeded_noise

Delta = Float[Tensor, "b c *f h w"]
# Images as the model makes them, [b, 3, h, w] from 0 to 1, -> a number for each, higher is better.
Reward = Callable[[Tensor], Tensor]


def dsm(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """The model's own training loss, ||out - (p x0 + q e)||^2: delta = out - target (TRAK).

    Of a model that predicts noise this is denoising score matching, ||eps - e||^2.
    """
    assert probe.noise is not None, "dsm needs a path that draws noise"
    return probe.out.detach() - denoiser.schedule.asked(x0, probe.noise, probe.t)


def dps(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """Diffusion posterior sampling towards x0 (Concept-TRAK section 3.1).

    The noise that is asked for is ehat + s grad_xt ||x0 - x0hat(xt)||^2, so delta is -s times that
    gradient. It runs through the network, one backward pass to the input; r = x0hat - x0 goes
    through at unit size.
    """
    _, s = denoiser.schedule.rates(probe.t)
    error = denoiser.schedule.clean(probe.out.detach(), probe.xt.detach(), probe.t) - x0
    return -s * _pulled_back(denoiser, probe, error)


def _pulled_back(denoiser: Denoiser, probe: Probe, error: Tensor) -> Tensor:
    """The gradient of ||x0hat - y||^2 in xt, for error = x0hat - y, as a shift of the output.

    x0hat = (q xt - s out) / D, so with the network's Jacobian J it is 2 (q r - s J^T r) / D. To
    shift the noise by some vector is to shift the output by D/a times that: the other way round
    where D is negative, so the result is divided by |D|.
    """
    schedule, t = denoiser.schedule, probe.t
    (_, s), (_, q), d = schedule.rates(t), schedule.target(t), schedule.determinant(t)
    unit, scale = unit_rms(error)
    (pulled,) = torch.autograd.grad(probe.out, probe.xt, unit, retain_graph=True)
    return (q * unit - s * pulled) * per_row(2 / abs(d) * scale, unit)


# --- D-TRAK's outputs (Zheng 2024, table 1), and random ones for DAS ------------------------------


def square(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """||out||^2: delta = out."""
    return probe.out.detach()


def mean(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """The mean of out: delta = 1."""
    return torch.ones_like(probe.xt)


def l1(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """||out||_1: delta = sign(out)."""
    return probe.out.detach().sign()


def l2(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """||out||_2: delta = out / ||out||."""
    out = probe.out.detach()
    return out / per_row(out.flatten(1).norm(dim=1), out).clamp_min(TINY)


def linf(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """||out||_inf: delta = the sign of the largest entry, at its place."""
    flat = probe.out.detach().flatten(1)
    largest = flat.abs().argmax(1, keepdim=True)
    delta = torch.zeros_like(flat).scatter_(1, largest, flat.gather(1, largest).sign())
    return delta.reshape(probe.xt.shape)


def weighted(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """The denoising loss as the variational bound weighs it: beta / (2 alpha (1 - alpha_bar)).

    That weight is of the error in noise, which is a/D times that of the output.
    """
    schedule, t = denoiser.schedule, probe.t
    now = schedule.alpha_bar[t].item()
    before = schedule.alpha_bar[t - 1].item() if t > 0 else 1.0
    alpha = now / before
    a, _ = schedule.rates(t)
    in_noise = (a / schedule.determinant(t)) ** 2
    return dsm(denoiser, probe, x0) * ((1 - alpha) / (2 * alpha * (1 - now)) * in_noise)


def random(denoiser: Denoiser, probe: Probe, x0: Tensor) -> Delta:
    """Signs drawn for this sample, t and draw: E ||delta^T J||^2 = ||J||^2, for DAS eq. 18."""
    signs = [seeded_noise(probe.xt.shape[1:], "output", key).sign() for key in probe.keys]
    return torch.stack(signs).to(probe.xt)


def per_row(numbers: Float[Tensor, " b"], like: Float[Tensor, "b ..."]) -> Tensor:
    """A number for each row, shaped so that it multiplies rows of `like`."""
    return numbers.reshape(-1, *[1] * (like.ndim - 1))


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
def concept(denoiser: Denoiser, probe: Probe, plus: Condition | None, minus: Condition) -> Delta:
    """The concept slider (Concept-TRAK section 3.2): delta = -(out(c+) - out(c-)).

    `plus` is the condition c+, or None where the base prompt is c+: the probe then holds its
    output already.
    """
    with_concept = probe.out if plus is None else denoiser.predict(probe.xt, probe.t, plus)
    return denoiser.predict(probe.xt, probe.t, minus) - with_concept


def reward(denoiser: Denoiser, probe: Probe, function: Reward) -> Delta:
    """grad_xt R(x0hat(xt)), through the network and the autoencoder (Concept-TRAK C.2).

    `dps` and `concept` are this with R = -||x0 - x0hat||^2 and R = log p(c+|x)/p(c-|x).
    """
    clean = denoiser.schedule.clean(probe.out.detach(), probe.xt.detach(), probe.t)
    x0hat = clean.requires_grad_()
    with torch.enable_grad():
        pixels = denoiser.pixels(x0hat)
        seen = pixels.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(seen).sum(), seen)
    # each part of the chain is handed a vector of unit size, so that half precision does not
    # lose the small slope of a mean over many pixels
    unit, scale = unit_rms(slope)
    (error,) = torch.autograd.grad(pixels, x0hat, unit)
    return _pulled_back(denoiser, probe, error) * per_row(scale / 2, error)


def preference(denoiser: Denoiser, probe: Probe, own: Tensor, other: Tensor, sign: int) -> Delta:
    """One image's part of a preference pair (Concept-TRAK C.3).

    grad_xt of sign (||x0hat - other||^2 - ||x0hat - own||^2); sign is 1 for the better image (own,
    with the worse as other) and -1 for the worse. x0hat itself drops out of the difference.
    """
    return sign * _pulled_back(denoiser, probe, own - other)
