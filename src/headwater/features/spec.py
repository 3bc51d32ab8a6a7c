"""What features are, as data: where probes come from, what is asked there, how much is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What a side costs for each probe, in forward passes of the network: its own, backward to the
# layers, and, of these, backward to the input (or, of a concept, forward at c-; of a contrast or a
# contribution, forward and backward at c-).
UNITS = {"dps": 3, "reward": 3, "preference": 3, "concept": 3, "contrast": 4, "contribution": 4}
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

    Args:
        path, delta: names of `features.probes` and `features.guidance`.
        guidance: classifier-free guidance of an inversion; 1 is none.

    >>> str(Side("inversion", "dps", 7.5)), Side("inversion", "dps", 7.5).units(10)
    ('inversion/dps @7.5', 41)
    """

    path: str
    delta: str = ""
    guidance: float = 1.0

    @property
    def gradient(self) -> bool:
        """Whether features are gradients of the network."""
        return bool(self.delta)

    @property
    def guided(self) -> bool:
        """Whether an inversion follows more than the prediction for the caption."""
        return self.guidance != 1

    def kind(self) -> tuple[str, str, bool]:
        """What methods tell sides apart by: guided or not, by how much is the index's choice."""
        return self.path, self.delta, self.guided

    def units(self, timesteps: int = TIMESTEPS) -> int:
        """Forward passes of the network for a picture.

        An inversion begins with one more; a guided one makes one more at each of its steps.
        """
        if not self.gradient:
            return 0
        of_path = (1 + timesteps * self.guided) if self.path == "inversion" else 0
        return UNITS.get(self.delta, 2) * timesteps + of_path

    def __str__(self) -> str:
        named = f"{self.path}/{self.delta}" if self.delta else self.path
        return f"{named} @{self.guidance:g}" if self.guided else named


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
