"""Feature rows: probes -> guidance -> per-sample J^T delta -> projection -> mean over probes.

Train rows and query rows go through `project_probes`; only the pairs (eps, delta) that they bring
differ. One code path gives both the same sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater import guidance, probes
from headwater.denoiser import Denoiser, frozen
from headwater.errors import MethodError
from headwater.gradients import Tape
from headwater.methods import Side
from headwater.projection import Sketch

# One probe's prediction, on its graph, and what is asked of it.
Asked = tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]


@dataclass(frozen=True)
class Extractor:
    """All that turns probes into rows, fixed for one index."""

    denoiser: Denoiser
    layers: Mapping[str, nn.Module]
    sketch: Sketch
    train: Side
    timesteps: Sequence[int]
    normalise: bool
    seed: int

    def train_rows(
        self,
        x0: Float[Tensor, "b c h w"],
        condition: Float[Tensor, "b l e"] | None,
        ids: Sequence[str],
    ) -> Float[Tensor, "b k"]:
        """Features of training samples (float32, on the denoiser's device)."""
        return self._rows(_train_pairs(self, x0, condition, ids), len(x0))

    def concept_rows(
        self,
        noise: Float[Tensor, "b c h w"],
        plus: Float[Tensor, "b l e"],
        minus: Float[Tensor, "b l e"],
        base: Float[Tensor, "b l e"] | None = None,
        tick: Callable[[int], Any] = lambda count: None,
    ) -> Float[Tensor, "b k"]:
        """Features of trajectories from `noise` under c (`base`, or c+ itself), one per row.

        `tick` is told after each timestep how many probes were done.
        """
        return self._rows(_concept_pairs(self, noise, plus, minus, base), len(noise), tick)

    def _rows(self, asked: Iterable[Asked], batch: int, tick=lambda count: None) -> Tensor:
        with frozen(self.denoiser.network), Tape(self.layers) as tape:
            return project_probes(tape, _ticked(asked, batch, tick), self.sketch, self.normalise)


def project_probes(
    tape: Tape, asked: Iterable[Asked], sketch: Sketch, normalise: bool
) -> Float[Tensor, "b k"]:
    """Mean over probes of P^T w J^T delta; w = 1 / ||J^T delta|| (exact, unprojected) or 1.

    A zero gradient stays zero. Norm and sums are float32 whatever the model computes in.
    """
    total, count = None, 0
    for eps, delta in asked:
        row = torch.zeros(len(eps), sketch.dim, device=eps.device)
        square = torch.zeros(len(eps), device=eps.device)
        for layer, gradient in tape.gradients(eps, delta):
            gradient = gradient.float()
            square += gradient.square().sum(1)
            sketch.add(row, layer, gradient)
        if normalise:
            row /= square.sqrt().clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        total = row if total is None else total.add_(row)
        count += 1
    assert total is not None, "a path without probes"
    return total / count


def _ticked(asked: Iterable[Asked], batch: int, tick: Callable[[int], Any]) -> Iterator[Asked]:
    for pair in asked:
        yield pair
        tick(batch)


def _train_pairs(extractor: Extractor, x0, condition, ids) -> Iterator[Asked]:
    denoiser, timesteps, side = extractor.denoiser, extractor.timesteps, extractor.train
    if side.path == "inversion":
        path = probes.inversion(denoiser, x0, condition, timesteps)
    elif side.path == "noising":
        path = probes.noising(denoiser, x0, condition, timesteps, ids, extractor.seed)
    else:
        raise MethodError(f"training images have no path {side.path!r}")
    for probe in path:
        if side.delta == "dps":
            yield probe.eps, guidance.dps(denoiser, probe, x0)
        else:
            yield probe.eps, guidance.dsm(probe)


def _concept_pairs(extractor: Extractor, noise, plus, minus, base) -> Iterator[Asked]:
    denoiser = extractor.denoiser
    path = probes.generation(denoiser, noise, plus if base is None else base, extractor.timesteps)
    for probe in path:
        yield probe.eps, guidance.concept(denoiser, probe, None if base is None else plus, minus)
