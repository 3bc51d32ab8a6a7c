"""Where x_t comes from: each path is a generator of probes, the points where a gradient is taken.

A path makes the one forward pass of a probe, hands it out with its graph, and goes on from the
same prediction: inversion, guidance and gradient share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.features.batch import Batch
from headwater.features.spec import ProbeSpec
from headwater.models.condition import Condition
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import guided, seeded_noise


@dataclass(frozen=True)
class Probe:
    """One point (xt, t) for each row of a batch, and the network's output there.

    `out` is on the autograd graph of `xt`, until the path is asked for its next probe. `noise` is
    the noise that made `xt`, where there was one, and `keys` what each row's noise was drawn for.
    """

    xt: Float[Tensor, "b c *f h w"]
    t: int
    out: Float[Tensor, "b c *f h w"]
    noise: Float[Tensor, "b c *f h w"] | None = None
    keys: Sequence[str] = ()


def _probe(
    denoiser: Denoiser,
    xt: Tensor,
    t: int,
    condition: Condition | None,
    noise: Tensor | None = None,
    keys: Sequence[str] = (),
) -> Probe:
    with torch.enable_grad():
        xt = xt.detach().requires_grad_()
        return Probe(xt, t, denoiser.predict(xt, t, condition), noise, keys)


def at(denoiser: Denoiser, probe: Probe, condition: Condition) -> Probe:
    """Another output at the probe's state, on a graph of its own."""
    return _probe(denoiser, probe.xt, probe.t, condition, probe.noise, probe.keys)


def noising(denoiser: Denoiser, batch: Batch, spec: ProbeSpec) -> Iterator[Probe]:
    """q(xt | x0), with noise that belongs to (seed, sample id, t, draw) and to nothing else.

    So does the choice among several captions.
    """
    for t in spec.timesteps:
        for draw in range(spec.draws):
            keys = _keys(batch, spec, t, draw)
            noise = torch.stack([seeded_noise(batch.x0.shape[1:], key) for key in keys])
            noise = noise.to(batch.x0)
            xt = denoiser.schedule.noised(batch.x0, noise, t)
            yield _probe(denoiser, xt, t, batch.drawn(keys), noise, keys)


def _keys(batch: Batch, spec: ProbeSpec, t: int, draw: int = 0) -> list[str]:
    return [f"{spec.seed}|{id}|{t}|{draw}" for id in batch.ids]


def inversion(denoiser: Denoiser, batch: Batch, spec: ProbeSpec) -> Iterator[Probe]:
    """Deterministic DDIM inversion of x0, a probe at every ascending timestep.

    One forward pass at t = 0 leads to the first probe; t = 0 itself carries no signal. Gradients
    are taken of the conditional output; with a guidance other than 1 the path follows
    out("") + guidance (out(c) - out("")), one forward pass more at each step (7.5 in the published
    Concept-TRAK code; the paper's text names none). Of several captions one is drawn at each
    timestep, as in `noising`; the path goes on from what was predicted there.
    """
    x0, guidance, schedule = batch.x0, spec.inversion_guidance, denoiser.schedule
    empty = denoiser.encode_captions([""] * len(x0)) if guidance != 1 else None

    def direction(xt: Tensor, t: int, out: Tensor) -> Tensor:
        return out if empty is None else guided(denoiser, xt, t, out, empty, guidance)

    with torch.no_grad():
        condition = batch.drawn(_keys(batch, spec, 0))
        out = direction(x0, 0, denoiser.predict(x0, 0, condition))
    x0hat, noise = x0, schedule.noise(out, x0, 0)
    last = spec.timesteps[-1]  # leads nowhere
    for t in spec.timesteps:
        condition = batch.drawn(_keys(batch, spec, t))
        probe = _probe(denoiser, schedule.noised(x0hat, noise, t), t, condition)
        yield probe
        if t != last:
            xt = probe.xt.detach()
            with torch.no_grad():
                out = direction(xt, t, probe.out.detach())
            x0hat, noise = schedule.clean(out, xt, t), schedule.noise(out, xt, t)


def generation(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c *f h w"],
    condition: Condition | None,
    timesteps: Sequence[int],
) -> Iterator[Probe]:
    """DDIM sampling (eta = 0, unguided) from `noise`, a probe at every timestep, noisiest first."""
    xt = noise
    for t, following in zip(timesteps[::-1], [*timesteps[-2::-1], None], strict=True):
        probe = _probe(denoiser, xt, t, condition)
        yield probe
        if following is not None:
            xt = denoiser.schedule.moved(probe.out.detach(), probe.xt.detach(), t, following)
