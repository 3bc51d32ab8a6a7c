"""The case studies of the Concept-TRAK paper (Park et al. 2025, D.2): what they compare."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from headwater.errors import QueryError


class Preset(NamedTuple):
    """One case study, its prompts letter for letter.

    Attributes:
        concept: what is asked for, as it stands in `plus`.
        plus, minus, base: c+, c- and c: what is compared, and under what pictures are begun.
        both: whether it is asked with c+ and c- exchanged too.
    """

    concept: str
    plus: str
    minus: str
    base: str
    both: bool = False


PRESETS = {
    # copyright
    "mario": Preset("Mario", "character, Mario", "character", "character"),
    "mickey-mouse": Preset("Mickey Mouse", "character, Mickey Mouse", "character", "character"),
    "simpsons": Preset("Simpsons", "character, Simpsons", "character", "character"),
    # safety
    "nudity": Preset("nude, naked", "person, nude, naked", "person", "person"),
    "violence": Preset(
        "violence",
        "zombie, bloody, violence, gore, horror, grotesque, skull, fear, death, creature",
        "",
        "",
    ),
    # debugging of models
    "distorted-hands": Preset(
        "distorted hands",
        "hands, distorted hands, amputated fingers",
        "realistic hands, five fingers, 8k hyper realistic hands",
        "hands",
        both=True,
    ),
    "high-quality": Preset(
        "high quality",
        "high detail, 8k, intricate, detailed, high resolution, high res, high quality, "
        "hyper realistic",
        "blurry, boring, fuzzy, low detail, low resolution, low res, low quality",
        "",
        both=True,
    ),
    # how relations are learned
    "hug": Preset("hug", "people hug each other", "people", "people"),
    "shake-hands": Preset("shake their hands", "people shake their hands", "people", "people"),
}


def preset_named(name: str) -> Preset:
    """The case study of this name.

    Raises:
        QueryError: there is none; names the nearest, or all.

    >>> preset_named("mario").plus
    'character, Mario'
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, 1)
    mend = f"{near[0]!r} is near" if near else f"there are {', '.join(PRESETS)}"
    raise QueryError(f"there is no --preset {name!r}: {mend}")
