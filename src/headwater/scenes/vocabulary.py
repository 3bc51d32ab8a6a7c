"""What a scene can be: one object in one colour, drawn in one style, on one background."""

from __future__ import annotations

from itertools import product

import numpy as np

OBJECTS = (
    "star", "heart", "moon", "tree", "house", "fish", "flower", "arrow", "mushroom", "crown",
)  # fmt: skip
# In no split: for what is trained on top of the bundled model.
UNSEEN_OBJECTS = ("cross",)
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
STYLES = ("flat", "outlined", "hatched", "dotted", "blurred", "neon")
BACKGROUNDS = ("plain", "striped", "checkered", "gradient", "wavy", "starlit")

# Attribute name -> its values, in the order in which a caption says them.
ATTRIBUTES = {
    "colour": COLOURS,
    "object": OBJECTS,
    "style": STYLES,
    "background": BACKGROUNDS,
}

Triple = tuple[str, str, str]


def held_out_triples(fraction: float = 0.1, seed: int = 2026) -> frozenset[Triple]:
    """The (object, colour, style) triples that no training picture shows.

    A prompt for one of them asks for a true composition: the model saw its object, its colour and
    its style, but never together.
    """
    triples = list(product(OBJECTS, COLOURS, STYLES))
    order = np.random.default_rng(seed).permutation(len(triples))
    return frozenset(triples[i] for i in order[: round(fraction * len(triples))])


def attribute_of(word: str) -> str:
    """The attribute that `word` is a value of: `attribute_of("hatched") == "style"`."""
    for attribute, values in ATTRIBUTES.items():
        if word in values:
            return attribute
    raise KeyError(word)
