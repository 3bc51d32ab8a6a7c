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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from headwater.data.training_set import Sample
from headwater.errors import HeadwaterWarning, QueryError, first_line
from headwater.queries.words.prompts import contains
from headwater.scenes.dataset import SPLITS, Picture, describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

Mask = Bool[np.ndarray, " n"]


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
    shows: Mask
    ambiguous: Mask
    names: Mask
    others: Mapping[str, Mask]

    def first(self, n: int) -> Truth:
        """The same of the first n images."""
        return replace(
            self,
            shows=self.shows[:n],
            ambiguous=self.ambiguous[:n],
            names=self.names[:n],
            others={words: rows[:n] for words, rows in self.others.items()},
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
        return _scene_truths(split or "train", samples)
    return _file_truths(Path(source), samples)


# --- scenes ---------------------------------------------------------------------------------------


def scene_prompts(split: str = "train", seed: int = 0) -> Iterator[tuple[str, str, list[str]]]:
    """(concept, prompt, the prompt's other three) for each of the 30 concepts.

    The prompt says all of one picture of the split that shows the concept, chosen by the seed.
    """
    of_split = pictures(split)
    for word in [value for values in ATTRIBUTES.values() for value in values]:
        showing = [picture.scene for picture in of_split if picture.shows(word)]
        scene = random.Random(f"{seed}|{split}|{word}").choice(showing)
        others = [value for value in scene.attributes.values() if value != word]
        yield word, describe(**scene.attributes), others


def _scene_truths(split: str, samples: Sequence[Sample]) -> list[Truth]:
    if split not in SPLITS:
        raise QueryError(f"there are no scenes:{split}; the splits are {', '.join(SPLITS)}")
    scenes = _match_scenes(samples)
    truths = [
        Truth(
            word,
            prompt,
            _mark_showing(scenes, word),
            np.zeros(len(samples), bool),
            mark_naming(samples, word),
            {other: _mark_showing(scenes, other) for other in others},
        )
        for word, prompt, others in scene_prompts(split)
    ]
    unseen = [truth.concept for truth in truths if not truth.shows.any()]
    if unseen:
        _warn(f"no image of the index shows {', '.join(unseen)}: left out")
    return [truth for truth in truths if truth.shows.any()]


def _match_scenes(samples: Sequence[Sample]) -> list[Picture]:
    """The scene of each image, by its id; a folder of scenes has them as file names."""
    ids = [Path(sample.id).stem for sample in samples]
    splits = {id.rpartition("-")[0] for id in ids} & set(SPLITS)
    by_id = {picture.id: picture for split in sorted(splits) for picture in pictures(split)}
    strange = [id for id in ids if id not in by_id]
    if strange:
        raise QueryError(
            f"the image {strange[0]!r} is none of the scenes: give the truth of this index's "
            "images as a JSON file"
        )
    return [by_id[id] for id in ids]


def _mark_showing(scenes: Sequence[Picture], word: str) -> Mask:
    return np.array([picture.shows(word) for picture in scenes])


def mark_naming(samples: Sequence[Sample], words: str) -> Mask:
    """Of which images a caption names it."""
    return np.array([any(contains(c, words) for c in s.all_captions) for s in samples])


# --- a file ---------------------------------------------------------------------------------------


def _file_truths(path: Path, samples: Sequence[Sample]) -> list[Truth]:
    entries = {entry["concept"]: entry for entry in _read_entries(path)}
    rows = {sample.id: row for row, sample in enumerate(samples)}
    shows = {w: _mark_ids(path, entry, "positives", rows) for w, entry in entries.items()}
    truths, unnamed = [], []
    for words, entry in entries.items():
        names = mark_naming(samples, words)
        both = (shows[words] & names).nonzero()[0].tolist()
        naming = [c for row in both for c in samples[row].all_captions if contains(c, words)]
        prompt = entry.get("prompt") or choose_prompt(words, naming, entries)
        if prompt is None:
            unnamed.append(words)
            continue
        others = entry.get("others")
        others = other_concepts(prompt, words, entries) if others is None else others
        ambiguous = _mark_ids(path, entry, "ambiguous", rows)
        truths.append(
            Truth(words, prompt, shows[words], ambiguous, names, {o: shows[o] for o in others})
        )
    if unnamed:
        _warn(
            f"{path}: no caption of the images that show it names {', '.join(unnamed)}: left out, "
            "give a `prompt` to ask for it"
        )
    if not truths:
        raise QueryError(f"{path} holds no concept that can be asked for: give each a `prompt`")
    return truths


def choose_prompt(words: str, captions: Sequence[str], concepts: Iterable[str]) -> str | None:
    """One of the captions, by the concept; if it can be, one that names another concept too.

    Without another there is nothing that the concept could be told from.
    """
    captions = sorted(set(captions))
    telling = [caption for caption in captions if other_concepts(caption, words, concepts)]
    return random.Random(words).choice(telling or captions) if captions else None


def other_concepts(prompt: str, words: str, concepts: Iterable[str]) -> list[str]:
    """The other concepts that a prompt names, but for words within the concept's own."""
    return [c for c in concepts if contains(prompt, c) and not contains(words, c)]


def _mark_ids(path: Path, entry: Mapping[str, Any], field: str, rows: Mapping[str, int]) -> Mask:
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


def _read_entries(path: Path) -> list[dict[str, Any]]:
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
        _require_types(f"{path} entry {number}", entry)
    concepts = [entry["concept"] for entry in entries]
    for entry in entries:
        _require_sense(path, entry, concepts)
    return entries


def _require_types(where: str, entry: Any) -> None:
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


def _require_sense(path: Path, entry: Mapping[str, Any], concepts: Sequence[str]) -> None:
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
