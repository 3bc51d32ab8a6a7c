"""The things of `exemplars.py`: what the bundled model never saw, with some pictures of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from common import real_data

from headwater import TrainingSet, load_dataset
from headwater.data.training_set import make_training_set
from headwater.scenes.dataset import pictures
from headwater.scenes.vocabulary import ATTRIBUTES

THINGS, EXEMPLARS = 12, 4
UNSAID = "a shape"
SEED = 0


@dataclass(frozen=True)
class Hidden:
    """Exemplars of each thing, by a name for its word; and what they are hidden among.

    Attributes:
        called: of each thing, for people.
        others: pictures of the exemplars' kind that are of other things.
    """

    things: Mapping[str, TrainingSet]
    called: Sequence[str]
    others: TrainingSet


def captioned(data: TrainingSet, captions: Sequence[str], prefix: str = "") -> TrainingSet:
    """The same pictures under other captions."""
    samples = [
        replace(sample, id=prefix + sample.id, caption=caption, captions=())
        for sample, caption in zip(data.samples, captions, strict=True)
    ]
    return make_training_set(data.source, samples, data.contents, data.open_image)


def unseen_scenes() -> Hidden:
    """Objects in a colour and style that no training picture shows together."""
    data, shown = load_dataset("scenes", split="unseen"), pictures("unseen")
    triples = [f"{p.scene.colour} {p.scene.style} {p.scene.object}" for p in shown]
    return _hidden(data, triples)


def drawings() -> Hidden:
    """Emoji of which there are four drawings; none whose caption holds a word of the scenes."""
    data = load_dataset(real_data("emoji-styles") / "train.parquet")
    known = {word for values in ATTRIBUTES.values() for word in values}
    names = [
        "" if known & set(sample.caption.split()) else sample.caption.rpartition(",")[0]
        for sample in data.samples
    ]
    found = _hidden(data, [name.removeprefix("a drawing of ") for name in names])
    return replace(found, others=captioned(found.others, [UNSAID] * len(found.others)))


KINDS: dict[str, Callable[[], Hidden]] = {"scenes": unseen_scenes, "drawings": drawings}


def _hidden(data: TrainingSet, names: Sequence[str]) -> Hidden:
    """Some things of which there are pictures enough; pictures of the others. "" is no thing."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    enough = sorted(name for name, each in rows.items() if name and len(each) >= EXEMPLARS)
    chosen = sorted(random.Random(SEED).sample(enough, THINGS))
    exemplars = {
        f"new{i}": data.take(sorted(random.Random(name).sample(rows[name], EXEMPLARS)))
        for i, name in enumerate(chosen, 1)
    }
    others = [row for row, name in enumerate(names) if name not in chosen]
    return Hidden(exemplars, chosen, data.take(others))
