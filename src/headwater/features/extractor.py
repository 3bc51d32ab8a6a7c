"""Feature rows: probes -> guidance -> per-sample J^T delta -> projection -> mean over probes.

Train rows and query rows go through `probe_rows`; only the pairs (out, delta) that they bring
differ (`objectives.py`). One code path gives both the same sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from headwater.features.batch import Batch, Rows, rows_joined, training_batches
from headwater.features.objectives import Objective, image_objectives
from headwater.features.spec import ProbeSpec, Side
from headwater.gradients.layers import widened
from headwater.gradients.projection import Projection
from headwater.gradients.vjp import TINY, Tape, unit_rms
from headwater.models.denoiser import Denoiser
from headwater.models.patches import for_gradients


@dataclass(frozen=True)
class ProbeRow:
    """One probe of a batch.

    `features` is P^T J^T delta, `norms` the exact, unprojected norm of each layer's part,
    `residual` the mean squared error of the output, where noise was drawn.
    """

    features: Float[Tensor, "b k"]
    norms: Mapping[str, Float[Tensor, " b"]]
    residual: Float[Tensor, " b"] | None = None

    def norm(self) -> Float[Tensor, " b"]:
        """||J^T delta|| over all attributed parameters."""
        if not self.norms:  # no layer had a part in the pass
            return self.features.new_zeros(len(self.features))
        return torch.linalg.vector_norm(torch.stack(list(self.norms.values())), dim=0)


@dataclass(frozen=True)
class Extractor:
    """All that turns probes into rows, fixed for one index.

    Attributes:
        weights: how much each timestep counts in the row of a training image; empty for alike.
    """

    denoiser: Denoiser
    layers: Mapping[str, nn.Module]
    projection: Projection
    train: Side
    timesteps: Sequence[int]
    normalise: str
    seed: int
    draws: int = 1
    weights: Sequence[float] = ()

    @property
    def dim(self) -> int:
        """K."""
        return self.projection.dim

    @property
    def spec(self) -> ProbeSpec:
        """Where training images are probed."""
        return ProbeSpec(self.timesteps, self.seed, self.draws, self.train.guidance)

    def image_rows(
        self,
        images: Sequence[Image.Image],
        captions: Sequence[Sequence[str]],
        ids: Sequence[str],
        encodings: Path | None = None,
    ) -> Rows:
        """Features of training samples; `encodings` is a folder that keeps what is encoded.

        Of several captions of an image one is drawn at each probe. Each bucket is a batch.
        """
        parts, places = [], []
        for rows, batch in training_batches(self.denoiser, images, captions, ids, encodings):
            parts.append(self.train_rows(batch))
            places += rows
        return rows_joined(parts, places)

    def train_rows(self, batch: Batch) -> Rows:
        """Features of training samples, on the denoiser's device."""
        weights = [weight for weight in self.weights for _ in range(self.draws)]
        return mean_over_probes(self.train_probes(batch), self.normalise, weights)

    def train_probes(self, batch: Batch) -> Iterator[ProbeRow]:
        """The same before the mean: a row of features and its norms for each probe in turn."""
        return self.probes(image_objectives(self.denoiser, self.train, batch, self.spec))

    def query_rows(
        self, objectives: Iterable[Objective], tick: Callable[[int], Any] = lambda count: None
    ) -> Float[Tensor, "b k"]:
        """Features of a query's draws; `tick` is told after each probe how many rows it had."""
        return mean_over_probes(self.probes(objectives, tick), self.normalise).features

    def probes(
        self, objectives: Iterable[Objective], tick: Callable[[int], Any] = lambda count: None
    ) -> Iterator[ProbeRow]:
        """A row for each probe in turn."""
        ready = for_gradients(self.denoiser, list(self.layers.values()))
        with ready, Tape(self.layers) as tape:
            for row in probe_rows(tape, objectives, self.projection):
                yield row
                tick(len(row.features))


def probe_rows(
    tape: Tape, objectives: Iterable[Objective], projection: Projection
) -> Iterator[ProbeRow]:
    """P^T J^T delta of each probe, and its norms, in float32 whatever the model computes in.

    delta goes through the network at unit root mean square, so that half precision neither
    overflows nor vanishes; linear as it is, the result is scaled back.
    """
    for out, delta, residual in objectives:
        unit, scale = unit_rms(delta)
        features = widened(out.new_zeros(len(out), projection.dim))
        norms = {
            layer: projection.add[layer](features, calls) * scale
            for layer, calls in tape.calls(out, unit)
        }
        yield ProbeRow(features.mul_(scale[:, None]), norms, residual)


def mean_over_probes(
    rows: Iterable[ProbeRow], normalise: str, weights: Sequence[float] = ()
) -> Rows:
    """Mean over probes of w g. Zero stays zero.

    w is 1 ("none"), 1/||g|| with the exact, unprojected norm ("probe"), or, feature by feature,
    1/sqrt(sum over probes of g^2) ("over_time", DAS eq. 17), times the probe's weight.
    """
    total = squares = None
    residuals: list[Tensor | None] = []
    for number, row in enumerate(rows):
        features = row.features
        if weights:
            features = features * weights[number]
        if normalise == "probe":
            features = features / row.norm().clamp_min(TINY)[:, None]
        if normalise == "over_time":
            squares = (0 if squares is None else squares) + features.square()
        total = features if total is None else total.add_(features)
        residuals.append(row.residual)
    assert total is not None, "a path without probes"
    if squares is not None:
        total = total / squares.sqrt().clamp_min(TINY)
    seen = [residual for residual in residuals if residual is not None]
    return Rows(total / len(residuals), torch.stack(seen, 1) if seen else None)
