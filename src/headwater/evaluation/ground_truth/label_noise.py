"""False captions, planted: does a method find what images show, or what is said of them?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from headwater.data.training_set import TrainingSet, make_training_set
from headwater.errors import QueryError
from headwater.queries.words.prompts import contains
from headwater.queries.words.replacements import exchanged
from headwater.scenes.vocabulary import ATTRIBUTES


def plant_label_noise(
    data: TrainingSet,
    share: float,
    seed: int = 0,
    groups: Sequence[Sequence[str]] = tuple(ATTRIBUTES.values()),
) -> TrainingSet:
    """The same pictures; a share of them with a caption in which one word is false.

    The word becomes another one of its group: "a red star" a green one. Captions are taken to be
    true before. The set has a fingerprint of its own, so that no index confuses the two.

    Args:
        share: of all images.
        groups: words of which an image shows one at most; by default the scenes' attributes.

    Raises:
        QueryError: too few captions hold a word of any group.
    """
    rows = [row for row, sample in enumerate(data.samples) if _words_in(sample.caption, groups)]
    count = round(share * len(data))
    if not 0 <= count <= len(rows):
        raise QueryError(
            f"{count} false captions are asked for, and {len(rows)} of {len(data)} captions of "
            f"{data.source} hold a word to make false: take another share"
        )
    samples = list(data.samples)
    for row in random.Random(f"{seed}|planted").sample(rows, count):
        sample = samples[row]
        caption = _falsify(sample.caption, groups, random.Random(f"{seed}|{sample.id}"))
        samples[row] = replace(sample, caption=caption, captions=())
    noisy = make_training_set(data.source, samples, data.contents, data.open_image)
    return replace(noisy, options=data.options)


def _words_in(caption: str, groups: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    return [(word, group) for group in groups for word in group if contains(caption, word)]


def _falsify(caption: str, groups: Sequence[Sequence[str]], rng: random.Random) -> str:
    true, group = rng.choice(_words_in(caption, groups))
    false = rng.choice([word for word in group if not contains(caption, word)])
    return exchanged(caption, true, false)
