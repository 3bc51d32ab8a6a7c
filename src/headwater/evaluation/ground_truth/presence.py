"""A truth of data that nobody looked at: what the model itself sees (`presence`).

It is the judge of the scenes' planted captions in docs/results.md. As a truth it is as good as the
model's eyes, which are those of the very model that is asked: it says whether a method's answers
show the concept to the model, not to people, and ranks the method `presence` first by construction.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from headwater.attribution.scorers.content.presence import Losses, losses_of, prepare
from headwater.attribution.scorers.content.versions import Kind
from headwater.attribution.session import Session
from headwater.data.training_set import Sample
from headwater.errors import HeadwaterWarning, QueryError
from headwater.evaluation.ground_truth.concepts import (
    Truth,
    choose_prompt,
    mark_naming,
    other_concepts,
)
from headwater.queries.words.prompts import contains

NAME = "presence"
UNSURE = 0.25  # of the median margin of named images: nearer to 0 an image is claimed neither way


def is_of_presence(source: str) -> bool:
    """Whether a truth is to be what the model sees: "presence", or "presence:red,blue,green"."""
    return source.partition(":")[0] == NAME


def presence_truths(session: Session, source: str = NAME) -> list[Truth]:
    """A truth for each value that the model sees, of the kinds in captions or of the one given.

    Values that it does not tell from the others, or that no caption of an image names in which it
    sees them, are left out with a HeadwaterWarning that names them.

    Args:
        session: of any index of the images.
        source: see `is_of_presence`.

    Raises:
        QueryError: there are no kinds, or nothing is left.
        MethodError: the model reads no prompts.
    """
    samples = session.index.samples
    given = tuple(filter(None, map(str.strip, source.partition(":")[2].split(","))))
    kinds = [Kind(given, "given")] if given else [Kind(v, "") for v in session.kinds]
    if not kinds or len(kinds[0].values) < 2:
        raise QueryError(
            f"the truth {source!r} names no words to tell from each other, and captions set none "
            "in the same place: give some, as presence:red,blue,green"
        )
    prepare(session, [(kind, kind.values[0]) for kind in kinds])
    every = [value for kind in kinds for value in kind.values]
    seen: dict[str, Truth] = {}
    left_out: list[str] = []
    for kind in kinds:
        losses = losses_of(session, kind, kind.values[0])
        for value, is_seen in zip(kind.values, losses.told_apart().tolist(), strict=True):
            truth = _truth(samples, losses, value, every) if is_seen else None
            if truth is None:
                left_out.append(value)
            else:
                seen[value] = truth
    if left_out:
        text = f"the model does not tell {', '.join(left_out)} from the rest: left out"
        warnings.warn(text, HeadwaterWarning, stacklevel=2)
    if not seen:
        raise QueryError(
            f"the truth {source!r}: the model sees nothing of what captions name, so it can be no "
            "judge: give a JSON file"
        )
    return [_with_others(truth, seen) for truth in seen.values()]


def _truth(
    samples: Sequence[Sample], losses: Losses, value: str, every: Sequence[str]
) -> Truth | None:
    margins = losses.margins(value).mean(0).numpy()
    names = mark_naming(samples, value)
    agreed = names & (margins > 0)
    if not agreed.any():
        return None
    unsure = UNSURE * np.median(margins[agreed])
    naming = [
        caption
        for row in agreed.nonzero()[0].tolist()
        for caption in samples[row].all_captions
        if contains(caption, value)
    ]
    prompt = choose_prompt(value, naming, every)
    assert prompt is not None, "a caption names it"
    return Truth(value, prompt, margins >= unsure, np.abs(margins) < unsure, names, {})


def _with_others(truth: Truth, seen: Mapping[str, Truth]) -> Truth:
    """The truth with the other concepts of its prompt that the model sees."""
    others = other_concepts(truth.prompt, truth.concept, seen)
    return replace(truth, others={word: seen[word].shows for word in others})
