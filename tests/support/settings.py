"""What a question is handed, without an index."""

from pathlib import Path

from headwater.features.spec import Side
from headwater.queries.query import Setting

SLIDER = Side("generation", "concept")


def setting(
    denoiser, captions=(), side: Side = SLIDER, timesteps=(999,), cache: Path = Path("unused")
) -> Setting:
    """A setting whose pictures are made by this model."""
    return Setting(
        "a method", side, captions, timesteps, lambda shown: shown.picture(denoiser), cache
    )
