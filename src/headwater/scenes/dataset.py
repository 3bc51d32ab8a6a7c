"""The scenes as data sets: which pictures there are, and what their captions say of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from headwater.scenes.render import Scene, draw
from headwater.scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    OBJECTS,
    STYLES,
    held_out_triples,
)


@dataclass(frozen=True)
class Split:
    """How many pictures, of which triples, from which seed."""

    size: int
    seed: int
    unseen: bool = False


# Only `train` is what the bundled denoiser learned from, and what an index of it is made of.
SPLITS = {
    "train": Split(2_000, seed=0),
    "validation": Split(500, seed=1),
    "unseen": Split(500, seed=2, unseen=True),
    "autoencoder": Split(8_000, seed=3),
}

# How often a caption leaves an attribute out, as people do.
OMIT = 0.2


@dataclass(frozen=True)
class Picture:
    """One entry of a split: a stable id, the truth, and a caption that may leave some of it out."""

    id: str
    scene: Scene
    caption: str

    def draw(self) -> Image.Image:
        return draw(self.scene)

    def shows(self, word: str) -> bool:
        """Whether the picture shows this object, colour, style or background (caption or not)."""
        return word in self.scene.attributes.values()


def pictures(split: str = "train") -> list[Picture]:
    """The pictures of a split. Raises KeyError for a split that there is not."""
    spec = SPLITS[split]
    rng = np.random.default_rng([20261122, spec.seed])
    held_out = held_out_triples()
    combinations = [
        combination
        for combination in product(OBJECTS, COLOURS, STYLES, BACKGROUNDS)
        if (combination[:3] in held_out) == spec.unseen
    ]
    # Each combination comes up once before any comes up twice.
    rounds = -(-spec.size // len(combinations))
    order = np.concatenate([rng.permutation(len(combinations)) for _ in range(rounds)])
    return [
        _picture(f"{split}-{row:05d}", combinations[i], rng)
        for row, i in enumerate(order[: spec.size])
    ]


def _picture(id: str, combination: tuple[str, ...], rng: np.random.Generator) -> Picture:
    scene = Scene(
        *combination,
        x=float(rng.uniform(0.4, 0.6)),
        y=float(rng.uniform(0.4, 0.6)),
        radius=float(rng.uniform(0.28, 0.36)),
        tilt=float(rng.uniform(-20, 20)),
        tone=float(rng.uniform()),
    )
    named = {a: value for a, value in scene.attributes.items() if rng.uniform() >= OMIT}
    return Picture(id, scene, describe(**named))


def describe(
    object: str | None = None,
    colour: str | None = None,
    style: str | None = None,
    background: str | None = None,
) -> str:
    """A caption that says what is given: "a red star in hatched style on a striped background"."""
    thing = " ".join(word for word in (colour, object or "shape") if word)
    words = [_article(thing)]
    if style:
        words.append(f"in {style} style")
    if background:
        words.append(f"on {_article(background)} background")
    return " ".join(words)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def write_image_folder(folder: Path | str, split: str = "train") -> Path:
    """Write a split as PNG files with a `metadata.jsonl` (file_name, text, the attributes)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w") as metadata:
        for picture in pictures(split):
            name = f"{picture.id}.png"
            picture.draw().save(folder / name)
            row = {"file_name": name, "text": picture.caption, **asdict(picture.scene)}
            metadata.write(json.dumps(row) + "\n")
    return folder
