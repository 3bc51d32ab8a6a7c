"""Truth sets: for each concept, which images show it, and how to ask for it.

Of the scenes it is known what a picture shows, whatever its caption says. Of other data it stands
in a JSON file, a list of objects:

    {"concept": words, "positives": [ids], "ambiguous": [ids], "prompt": text, "others": [words]}

`ambiguous` (images claimed neither way), `prompt` and `others` may be left out; what else an object
holds is ignored.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from headwater.data.training_set import Sample
from headwater.errors import HeadwaterWarning, QueryError, first_line
from headwater.queries.prompts import contains
from headwater.scenes.dataset import SPLITS, Picture, describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

Rows = Bool[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of one concept, for the n images of an index.

    Attributes:
        concept: its words.
        prompt: one that names it, and others.
        shows: which images show it.
        ambiguous: which are claimed neither way, to be left out before anything is counted.
        names: whose caption names it, whole words, whatever the case.
        others: the other concepts that the prompt names, and which images show them.
    """

    concept: str
    prompt: str
    shows: Rows
    ambiguous: Rows
    names: Rows
    others: Mapping[str, Rows]

    def first(self, n: int) -> Truth:
        """The same of the first n images."""
        others = {words: rows[:n] for words, rows in self.others.items()}
        return Truth(
            self.concept,
            self.prompt,
            self.shows[:n],
            self.ambiguous[:n],
            self.names[:n],
            others,
        )


def read_truths(source: str, samples: Sequence[Sample]) -> list[Truth]:
    """The truths of "scenes", of "scenes:unseen" (prompts that no training picture shows), a file.

    Concepts that cannot be asked for are left out with a HeadwaterWarning that names them: those
    of a file without a prompt that no caption of their images names, those of the scenes that no
    image shows.

    Args:
        samples: of the index, in its order.

    Raises:
        QueryError: an unreadable file, an image that is not in the index, a concept without
            positives, a prompt that does not name its concept; or nothing is left.
    """
    name, _, split = source.partition(":")
    if name == "scenes":
        return _of_scenes(split or "train", samples)
    return _of_file(Path(source), samples)


# --- scenes ---------------------------------------------------------------------------------------


def scene_prompts(split: str = "train", seed: int = 0) -> Iterator[tuple[str, str, list[str]]]:
    """(concept, prompt, the prompt's other three) for each of the 30 concepts.

    The prompt says all of one picture of the split that shows the concept, chosen by the seed.
    """
    drawn = pictures(split)
    for word in [value for values in ATTRIBUTES.values() for value in values]:
        showing = [picture.scene for picture in drawn if picture.shows(word)]
        scene = random.Random(f"{seed}|{split}|{word}").choice(showing)
        said = {name: getattr(scene, name) for name in ATTRIBUTES}
        yield word, describe(**said), [other for other in said.values() if other != word]


def _of_scenes(split: str, samples: Sequence[Sample]) -> list[Truth]:
    if split not in SPLITS:
        raise QueryError(f"there are no scenes:{split}; the splits are {', '.join(SPLITS)}")
    drawn = _drawn(samples)
    found = [
        Truth(
            word,
            prompt,
            _shows(drawn, word),
            np.zeros(len(samples), bool),
            _names(samples, word),
            {other: _shows(drawn, other) for other in others},
        )
        for word, prompt, others in scene_prompts(split)
    ]
    unseen = [truth.concept for truth in found if not truth.shows.any()]
    if unseen:
        _warn(f"no image of the index shows {', '.join(unseen)}: left out")
    return [truth for truth in found if truth.shows.any()]


def _drawn(samples: Sequence[Sample]) -> list[Picture]:
    """The scene of each image, by its id; a folder of scenes has them as file names."""
    ids = [Path(sample.id).stem for sample in samples]
    splits = {id.rpartition("-")[0] for id in ids} & set(SPLITS)
    there = {picture.id: picture for split in sorted(splits) for picture in pictures(split)}
    strange = [id for id in ids if id not in there]
    if strange:
        raise QueryError(
            f"the image {strange[0]!r} is none of the scenes: give the truth of this index's "
            "images as a JSON file"
        )
    return [there[id] for id in ids]


def _shows(drawn: Sequence[Picture], word: str) -> Rows:
    return np.array([picture.shows(word) for picture in drawn])


def _names(samples: Sequence[Sample], words: str) -> Rows:
    return np.array([contains(sample.caption, words) for sample in samples])


# --- a file ---------------------------------------------------------------------------------------


def _of_file(path: Path, samples: Sequence[Sample]) -> list[Truth]:
    entries = {entry["concept"]: entry for entry in _entries(path)}
    rows = {sample.id: row for row, sample in enumerate(samples)}
    shows = {words: _marked(path, each, "positives", rows) for words, each in entries.items()}
    found, unnamed = [], []
    for words, entry in entries.items():
        names = _names(samples, words)
        naming = [samples[row].caption for row in (shows[words] & names).nonzero()[0].tolist()]
        prompt = entry.get("prompt") or _chosen(words, naming, entries)
        if prompt is None:
            unnamed.append(words)
            continue
        others = entry.get("others")
        others = _named(prompt, words, entries) if others is None else others
        ambiguous = _marked(path, entry, "ambiguous", rows)
        found.append(
            Truth(words, prompt, shows[words], ambiguous, names, {o: shows[o] for o in others})
        )
    if unnamed:
        _warn(
            f"{path}: no caption of the images that show it names {', '.join(unnamed)}: left out, "
            "give a `prompt` to ask for it"
        )
    if not found:
        raise QueryError(f"{path} holds no concept that can be asked for: give each a `prompt`")
    return found


def _chosen(words: str, captions: Sequence[str], concepts: Iterable[str]) -> str | None:
    """One of the captions, by the concept; if it can be, one that names another concept too.

    Without another there is nothing that the concept could be told from.
    """
    captions = sorted(set(captions))
    telling = [caption for caption in captions if _named(caption, words, concepts)]
    return random.Random(words).choice(telling or captions) if captions else None


def _named(prompt: str, words: str, concepts: Iterable[str]) -> list[str]:
    """The other concepts that a prompt names, but for words within the concept's own."""
    return [each for each in concepts if contains(prompt, each) and not contains(words, each)]


def _marked(path: Path, entry: Mapping[str, Any], field: str, rows: Mapping[str, int]) -> Rows:
    """Which rows have the ids of one field of an entry."""
    marked = np.zeros(len(rows), bool)
    for id in entry.get(field) or ():
        if id not in rows:
            raise QueryError(
                f"{path}: {id!r}, of {entry['concept']!r}, is not one of the {len(rows)} images "
                "here: take it out, or take all images"
            )
        marked[rows[id]] = True
    return marked


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QueryError(
            f"cannot read the truth {str(path)!r} ({first_line(error)}): give `scenes`, or a JSON "
            "file of concepts"
        ) from None
    if not isinstance(entries, list) or not entries:
        raise QueryError(f"{path} is no list of concepts: write [{{concept, positives}}, ...]")
    for number, entry in enumerate(entries, 1):
        _check_types(f"{path} entry {number}", entry)
    concepts = [entry["concept"] for entry in entries]
    for entry in entries:
        _check(path, entry, concepts)
    return entries


def _check_types(where: str, entry: Any) -> None:
    """Refuse an entry that is not made as it should be."""
    words = entry.get("concept") if isinstance(entry, dict) else None
    if not isinstance(words, str) or not words.strip():
        raise QueryError(f"{where} has no `concept`: give it words")
    if not isinstance(entry.get("prompt") or "", str):
        raise QueryError(f"{where}: its `prompt` is no text")
    for field in ("positives", "ambiguous", "others"):
        texts = entry.get(field) or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise QueryError(f"{where}: its `{field}` are no list of texts")


def _check(path: Path, entry: Mapping[str, Any], concepts: Sequence[str]) -> None:
    """Refuse an entry that makes no sense."""
    words, prompt = entry["concept"], entry.get("prompt")
    both = set(entry.get("positives") or ()) & set(entry.get("ambiguous") or ())
    strange = set(entry.get("others") or ()) - (set(concepts) - {words})
    if concepts.count(words) > 1:
        raise QueryError(f"{path} has the concept {words!r} twice: make them one")
    if not entry.get("positives"):
        raise QueryError(f"{path}: {words!r} has no `positives`: name images that show it")
    if both:
        raise QueryError(
            f"{path}: {min(both)!r} is both positive and ambiguous for {words!r}: take one out"
        )
    if strange:
        raise QueryError(
            f"{path}: {min(strange)!r}, one of the `others` of {words!r}, is no other concept of "
            "the file: add it there, or leave it out"
        )
    if prompt and not contains(prompt, words):
        raise QueryError(f"{path}: the prompt {prompt!r} does not name {words!r}: let it")


def _warn(text: str) -> None:
    warnings.warn(text, HeadwaterWarning, stacklevel=4)
