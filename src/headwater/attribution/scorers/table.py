"""The scorers, by the name that a row of `methods.table.METHODS` gives."""

from __future__ import annotations

from headwater.attribution.scorers import (
    captions,
    gradient,
    presence,
    random,
    similarity,
    unlearning,
)
from headwater.attribution.scorers.scoring import Scorer

SCORERS: dict[str, Scorer] = {
    "gradient": gradient.score,
    "similarity": similarity.score,
    "captions": captions.score,
    "presence": presence.score,
    "unlearning": unlearning.score,
    "random": random.score,
}
