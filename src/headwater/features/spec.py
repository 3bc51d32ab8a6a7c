"""What features are, as data: where probes come from, what is asked there, how much is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What a side costs for each probe, in forward passes of the network: its own, backward to the
# layers, and, of these, backward to the input (or, of a concept, forward at c-; of a contrast,
# forward and backward at c-).
UNITS = {"dps": 3, "reward": 3, "preference": 3, "concept": 3, "contrast": 4}
# Costs are given at so many probes of a picture.
TIMESTEPS = 10
# How many draws a question makes by default, and the most that `draws=None` makes.
DRAWS, MOST_DRAWS = 32, 256


@dataclass(frozen=True)
class Side:
    """Where the probes of one side come from, and what is asked of the prediction there.

    The paths "pixels" and "clip" have no probes: the feature is the latent, or CLIP's embedding.
    "captions", of a concept, is the features that the index has of the images whose caption names
    it, less those of the others. "patches" has no features: pictures are compared as they are.
    """

    path: str
    delta: str = ""

    @property
    def gradient(self) -> bool:
        """Whether features are gradients of the network."""
        return bool(self.delta)

    def units(self, timesteps: int = TIMESTEPS) -> int:
        """Forward passes of the network for a picture; an inversion begins with one more."""
        if not self.gradient:
            return 0
        return UNITS.get(self.delta, 2) * timesteps + (self.path == "inversion")

    def __str__(self) -> str:
        return f"{self.path}/{self.delta}" if self.delta else self.path


@dataclass(frozen=True)
class ProbeSpec:
    """At which points of the noise schedule probes are taken, and with which noise.

    Args:
        timesteps: ascending.
        seed: of noise, beside the sample's id.
        draws: of noise at each timestep, where a path draws any.
        inversion_guidance: classifier-free guidance of an inversion; 1 is none.
    """

    timesteps: Sequence[int]
    seed: int = 0
    draws: int = 1
    inversion_guidance: float = 1.0
