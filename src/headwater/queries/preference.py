"""Preferences: which training images taught the model what the better of two images has?

A pair is a winner x+ and a loser x-. At probes of both, along their inversions,
delta = + grad_xt R with R = -||x0hat+ - x+||^2 - ||x0hat- - x+||^2 + ||x0hat+ - x-||^2 +
||x0hat- - x-||^2 (Concept-TRAK C.3): towards the winner, away from the loser. One draw is one pair.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import PIL.Image

from headwater.data.sources import load_dataset
from headwater.data.training_set import TrainingSet
from headwater.errors import BadImageError, QueryError
from headwater.features.extractor import Extractor
from headwater.features.objectives import Asked, about_preference
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.queries.query import require_draws

_FORM = "give a folder with winners/ and losers/, or a parquet file with columns winner and loser"


@dataclass(frozen=True)
class Pairs:
    """Winners and losers, pair by pair.

    Attributes:
        source: where they came from.
        rows: for each pair the row of its winner among `winners` and of its loser among `losers`.
    """

    source: str
    winners: TrainingSet
    losers: TrainingSet
    rows: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, pair: int) -> tuple[PIL.Image.Image, PIL.Image.Image]:
        """(winner, loser).

        Raises:
            QueryError: one cannot be read.
        """
        winner, loser = self.rows[pair]
        return _image(self.winners, winner), _image(self.losers, loser)

    def captions(self, pair: int) -> tuple[str, str]:
        """Of the winner and of the loser; where one has none, the other's."""
        winner, loser = self.rows[pair]
        own = self.winners.samples[winner].caption, self.losers.samples[loser].caption
        return own[0] or own[1], own[1] or own[0]


def load_pairs(path: str | Path) -> Pairs:
    """Pairs of a folder with `winners` and `losers`, matched by name, or of a parquet file.

    Captions are those of a data set: metadata.jsonl or .txt files in either folder, or the
    file's column `caption`.

    Raises:
        QueryError: there are none, or names that do not match.
        DatasetError: a folder or a file cannot be read, or holds no images.
    """
    path = Path(path).expanduser()
    if path.is_file():
        winners, losers = (load_dataset(path, image_column=name) for name in ("winner", "loser"))
        return Pairs(str(path), winners, losers, tuple((row, row) for row in range(len(winners))))
    if not all((path / name).is_dir() for name in ("winners", "losers")):
        raise QueryError(f"there are no pairs at {str(path)!r}: {_FORM}")
    return matched(str(path), load_dataset(path / "winners"), load_dataset(path / "losers"))


def matched(source: str, winners: TrainingSet, losers: TrainingSet) -> Pairs:
    """Pairs of images whose ids are the same, but for what follows the last dot.

    Raises:
        QueryError: an image has no counterpart, or more than one.
    """
    better, worse = _by_name(source, winners), _by_name(source, losers)
    for own, other, lacks in ((better, worse, "loser"), (worse, better, "winner")):
        alone = [name for name in own if name not in other]
        if alone:
            raise QueryError(
                f"{source}: {alone[0]!r} has no {lacks} of the same name ({len(alone)} such, of "
                f"{len(own)}): give both files of a pair one name"
            )
    return Pairs(source, winners, losers, tuple((row, worse[name]) for name, row in better.items()))


def _by_name(source: str, side: TrainingSet) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, sample in enumerate(side.samples):
        name = PurePosixPath(sample.id).with_suffix("").as_posix()
        if name in rows:
            raise QueryError(
                f"{source} has two pictures named {name!r} on one side: {sample.uri!r} and "
                f"{side.samples[rows[name]].uri!r}; keep one"
            )
        rows[name] = row
    return rows


def _image(side: TrainingSet, row: int) -> PIL.Image.Image:
    try:
        return side.image(row)
    except BadImageError as error:
        said = str(error).rpartition(";")[0]  # what follows is advice for training images
        raise QueryError(f"{said}; mend it, or take the pair out") from None


@dataclass(frozen=True)
class Preference:
    """Which training images taught the model what winners have and losers lack?

    Args:
        pairs: see `load_pairs`.
        draws: how many pairs to ask about, drawn by the seed; None, or more than there are: all.
        seed: of the choice.

    Raises:
        QueryError: less than one draw.
    """

    pairs: Pairs
    draws: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_draws(self.draws)

    @property
    def kind(self) -> str:
        """Which of the kinds of question it is."""
        return "preference"

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return f"preference in {Path(self.pairs.source).name}"

    @property
    def prompt(self) -> str:
        """None: the pictures are given."""
        return ""

    @property
    def file(self) -> str:
        """Where the picture that is shown comes from."""
        return self.pairs.winners.samples[self.pairs.rows[0][0]].uri

    @property
    def description(self) -> str:
        """How it is asked, to go on from "asked"."""
        return f"what the winners of {len(self.chosen())} pair(s) have over the losers"

    def details(self) -> Mapping[str, Any]:
        """The same for provenance."""
        return {
            "pairs": self.pairs.source,
            "of": len(self.pairs),
            "fingerprints": [self.pairs.winners.fingerprint, self.pairs.losers.fingerprint],
        }

    def chosen(self) -> list[int]:
        """The pairs of the draws; those of few draws are the first of many."""
        order = random.Random(self.seed).sample(range(len(self.pairs)), len(self.pairs))
        return order[: self.draws]

    def picture(self, denoiser: Denoiser) -> Picture:
        """The first winner, to stand for the question."""
        image, _ = self.pairs.images(0)
        return Picture(image, denoiser.encode_images([image]))

    def drawer(self, denoiser: Denoiser) -> PreferenceDrawer:
        """The question, ready to be asked; every image has been read by then.

        Raises:
            QueryError: an image cannot be read, or a pair's two are the same.
        """
        chosen = self.chosen()
        digests = tuple(_digests(self.pairs, pair) for pair in chosen)
        captions = [caption for pair in chosen for caption in self.pairs.captions(pair)]
        denoiser.warn_of_lost_words(captions)
        return PreferenceDrawer(self.title, self.pairs, tuple(chosen), digests)


@dataclass(frozen=True)
class PreferenceDrawer:
    """Pairs along the inversions of both their images, one pair a draw.

    `digests` are of each chosen pair's two images.
    """

    title: str
    pairs: Pairs
    chosen: tuple[int, ...]
    digests: tuple[tuple[str, str], ...]

    @property
    def limit(self) -> int | None:
        """There are no more pairs than there are, and an inversion draws no noise."""
        return len(self.chosen)

    def key(self, draws: range) -> Mapping[str, Any]:
        """Images go by their digests."""
        return {
            "type": "preference",
            "pairs": [self.digests[draw] for draw in draws],
            "captions": [self.pairs.captions(self.chosen[draw]) for draw in draws],
        }

    def probes(self, machine: Extractor) -> int:
        """One at each timestep of both images."""
        return 2 * len(machine.timesteps)

    def asked(self, machine: Extractor, draws: Sequence[int]) -> Iterator[Asked]:
        """Each term of R reaches the probe that it contains: the winner's, then the loser's."""
        denoiser = machine.denoiser
        images = [self.pairs.images(self.chosen[draw]) for draw in draws]
        captions = [self.pairs.captions(self.chosen[draw]) for draw in draws]
        better, worse = (denoiser.encode_images([pair[side] for pair in images]) for side in (0, 1))
        for side, own, other, sign in ((0, better, worse, 1), (1, worse, better, -1)):
            condition = denoiser.encode_captions([pair[side] for pair in captions])
            yield from about_preference(
                denoiser,
                own,
                other,
                condition,
                sign,
                machine.timesteps,
                machine.inversion_guidance,
            )


def _digests(pairs: Pairs, pair: int) -> tuple[str, str]:
    """Sha256 of a pair's two images.

    Raises:
        QueryError: they are the same.
    """
    winner, loser = (
        hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        for image in pairs.images(pair)
    )
    if winner == loser:
        name = pairs.winners.samples[pairs.rows[pair][0]].id
        raise QueryError(
            f"{pairs.source}: winner and loser of {name!r} are the same picture, so nothing is "
            "preferred: take the pair out"
        )
    return winner, loser
