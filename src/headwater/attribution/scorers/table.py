"""The scorers, by the name that a row of `methods.table.METHODS` gives."""

from __future__ import annotations

from headwater.attribution.scorers import captions, exact, gradient, metagradient, random
from headwater.attribution.scorers.content import nda, presence, similarity, with_presence
from headwater.attribution.scorers.scoring import Scorer, ScorerOfAll
from headwater.attribution.scorers.unlearned import guda, mucs, unlearning

SCORERS: dict[str, Scorer] = {
    "gradient": gradient.score,
    "similarity": similarity.score,
    "captions": captions.score,
    "exact": exact.score,
    "metagradient": metagradient.score,
    "presence": presence.score,
    "with_presence": with_presence.score,
    "unlearning": unlearning.score,
    "mucs": mucs.score,
    "guda": guda.score,
    "nda": nda.score,
    "random": random.score,
}

# Those that answer several questions in one pass over the rows of an index.
TOGETHER: dict[str, ScorerOfAll] = {
    "gradient": gradient.score_all,
    "with_presence": with_presence.score_all,
}
