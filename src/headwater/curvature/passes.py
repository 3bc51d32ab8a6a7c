"""A pass over training images: what a batch of them adds to the sums that curvature is made of.

At each probe a vector v goes back through the network, with E[v v^T] = I: then J^T v has the
Gauss-Newton matrix J^T J for its second moment, whatever the image is like ("model": targets drawn
from what the model itself predicts; signs, whose products vary less than those of normal numbers).
Or it is how wrong the model is about the image ("data", the empirical Fisher matrix).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from headwater.curvature.basis import Basis
from headwater.curvature.factors import add_factors, shape_of, widest
from headwater.curvature.moments import add_moments
from headwater.features.batch import Batch
from headwater.features.extractor import Extractor
from headwater.features.guidance import per_row
from headwater.features.objectives import image_objectives
from headwater.features.spec import ProbeSpec, Side
from headwater.gradients.layers import Call
from headwater.gradients.vjp import Tape, unit_rms
from headwater.models.patches import for_gradients

TARGETS = {"model": Side("noising", "random"), "data": Side("noising", "dsm")}
# How many of the index's timesteps each image is looked at.
PROBES = 2


@dataclass(frozen=True)
class Look:
    """At which timesteps every `count`-th image is looked at, from the `first` on."""

    spec: ProbeSpec
    weights: Sequence[float]
    first: int
    count: int


def looks(machine: Extractor) -> list[Look]:
    """All of them: together they see every timestep, and each image a few.

    >>> from types import SimpleNamespace
    >>> fake = SimpleNamespace(spec=ProbeSpec(range(10)), weights=())
    >>> [tuple(look.spec.timesteps) for look in looks(fake)]
    [(0, 5), (1, 6), (2, 7), (3, 8), (4, 9)]
    """
    spec = replace(machine.spec, draws=1)
    weights = machine.weights or [1.0] * len(spec.timesteps)
    count = max(1, len(spec.timesteps) // PROBES)
    shares = [replace(spec, timesteps=spec.timesteps[first::count]) for first in range(count)]
    return [Look(share, weights[first::count], first, count) for first, share in enumerate(shares)]


def layer_calls(
    machine: Extractor, batch: Batch, look: Look, targets: str
) -> Iterator[tuple[str, list[Call]]]:
    """(layer, its calls) at each probe of a batch, weighed as training weighs its timestep."""
    ready = for_gradients(machine.denoiser, list(machine.layers.values()))
    objectives = image_objectives(machine.denoiser, TARGETS[targets], batch, look.spec)
    with ready, Tape(machine.layers) as tape:
        for (out, delta, _), weight in zip(objectives, look.weights, strict=True):
            unit, scale = unit_rms(delta)
            scale = scale * weight**0.5
            for name, calls in tape.calls(out, unit):
                yield name, [(x, gy * per_row(scale, gy)) for x, gy in calls]


def factor_sums(machine: Extractor, batch: Batch, look: Look, targets: str) -> dict[str, Tensor]:
    """What a batch adds to the sides of all layers that have them."""
    sums: dict[str, Tensor] = {}
    most = widest(machine.layers.values())
    for name, calls in layer_calls(machine, batch, look, targets):
        if shape_of(machine.layers[name]) is not None:
            add_factors(sums, name, machine.layers[name], calls, most)
    return sums


def moment_sums(
    machine: Extractor, bases: Mapping[str, Basis], batch: Batch, look: Look, targets: str
) -> dict[str, Tensor]:
    """What a batch adds to the second moments in these bases; those layers are looked at."""
    sums: dict[str, Tensor] = {}
    for name, calls in layer_calls(machine, batch, look, targets):
        if name in bases:
            add_moments(sums, name, machine.layers[name], bases[name], calls)
    return sums
