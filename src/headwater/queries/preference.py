"""Preferences: which training images taught the model what the better of two images has?

A pair is a winner x+ and a loser x-. At probes of both, along their inversions,
delta = + grad_xt R with R = -||x0hat+ - x+||^2 - ||x0hat- - x+||^2 + ||x0hat+ - x-||^2 +
||x0hat- - x-||^2 (Concept-TRAK C.3): towards the winner, away from the loser. One draw is one pair.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import PIL.Image

from headwater.data.sources import load_dataset
from headwater.data.training_set import TrainingSet
from headwater.errors import BadImageError, QueryError
from headwater.features.batch import Batch, encoded_batch
from headwater.features.extractor import Extractor
from headwater.features.objectives import Objective, preference_objectives
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.queries.query import (
    Description,
    Name,
    Pictured,
    Question,
    Setting,
    require_draws,
)
from headwater.queries.words.token_limit import lost_words

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

    def captions(self, pair: int) -> tuple[Sequence[str], Sequence[str]]:
        """All of the winner and of the loser; where one has none, the other's."""
        winner, loser = self.rows[pair]
        better, worse = self.winners.samples[winner], self.losers.samples[loser]
        own, other = better.all_captions, worse.all_captions
        return own if better.caption else other, other if worse.caption else own

    def ids(self, pair: int) -> tuple[str, str]:
        """Of the winner and of the loser."""
        winner, loser = self.rows[pair]
        return self.winners.samples[winner].id, self.losers.samples[loser].id


def load_pairs(path: str | Path) -> Pairs:
    """Pairs of a folder with `winners` and `losers`, matched by name, or of a parquet file.

    Captions are those of a data set: metadata.jsonl or .txt files in either folder, or the
    file's column `caption`.

    Raises:
        QueryError: there are none, or names that do not match.
        DatasetError: a folder or a file cannot be read, or holds no images.

    Example:
        pairs = load_pairs("PAIRS")  # PAIRS/winners/1.png is better than PAIRS/losers/1.png
        answer = session.attribute(Preference(pairs))
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
class Preference(Question):
    """Which training images taught the model what winners have and losers lack?

    Args:
        pairs: see `load_pairs`.
        draws: how many pairs to ask about, drawn by the seed; None, or more than there are: all.
        seed: of the choice.

    Raises:
        QueryError: less than one draw.

    >>> from PIL import Image
    >>> import headwater
    >>> one, other = (Image.new("RGB", (16, 16), name) for name in ("red", "blue"))
    >>> better, worse = (headwater.from_images([each], ["a wall"]) for each in (one, other))
    >>> headwater.Preference(matched("walls", better, worse)).title
    'preference in walls'
    """

    pairs: Pairs
    draws: int | None = None
    seed: int = 0

    kind = "preference"
    prompt = ""  # the pictures are given

    def __post_init__(self) -> None:
        require_draws(self.draws)

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return f"preference in {Path(self.pairs.source).name}"

    def name(self) -> Name:
        """What was asked for, as it stands in a sentence."""
        return Name(f"the {self.title}", quoted=False)

    @property
    def file(self) -> str:
        """Where the picture that is shown comes from."""
        return self.pairs.winners.samples[self.pairs.rows[0][0]].uri

    def chosen(self) -> list[int]:
        """The pairs of the draws; those of few draws are the first of many."""
        order = random.Random(self.seed).sample(range(len(self.pairs)), len(self.pairs))
        return order[: self.draws]

    def picture_facts(self) -> Mapping[str, Any]:
        """The first winner, by its contents."""
        return {"first winner": _digest(self.pairs.images(0)[0])}

    def picture(self, denoiser: Denoiser) -> Picture:
        """The first winner, to stand for the question."""
        image, _ = self.pairs.images(0)
        return Picture(image, denoiser.encode_images([image]))

    def likeness(self) -> str | Pictured:
        """Nothing.

        Raises:
            QueryError: always.
        """
        raise QueryError(
            "--candidates are like a picture or words, and a preference is between many pictures: "
            "leave it out"
        )

    def drawer(self, setting: Setting) -> PreferenceDrawer:
        """The question, ready to be asked; every image has been read by then.

        Raises:
            QueryError: an image cannot be read, or a pair's two are the same.
        """
        chosen = tuple(self.chosen())
        digests = tuple(_digests(self.pairs, pair) for pair in chosen)
        return PreferenceDrawer(self, chosen, digests)


@dataclass(frozen=True)
class PreferenceDrawer:
    """Pairs along the inversions of both their images, one pair a draw.

    `digests` are of each chosen pair's two images.
    """

    query: Preference
    chosen: tuple[int, ...]
    digests: tuple[tuple[str, str], ...]
    training_rows: Sequence[Collection[int]] = ()

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.query.title

    @property
    def limit(self) -> int | None:
        """There are no more pairs than there are, and an inversion draws no noise."""
        return len(self.chosen)

    @property
    def once(self) -> str:
        """Why there is one draw."""
        return "there is one pair" if self.limit == 1 else ""

    def describe(self, draws: int) -> Description:
        """Of how many pairs."""
        pairs = self.query.pairs
        facts = {
            "pairs": pairs.source,
            "of": len(pairs),
            "fingerprints": [pairs.winners.fingerprint, pairs.losers.fingerprint],
        }
        words = f"what the winners of {len(self.chosen)} pair(s) have over the losers"
        return Description(words, facts)

    def key(self, draws: range) -> Mapping[str, Any]:
        """Images go by their digests."""
        return {
            "type": "preference",
            "pairs": [self.digests[draw] for draw in draws],
            "captions": [self._captions(draw) for draw in draws],
            "ids": [self.query.pairs.ids(self.chosen[draw]) for draw in draws],
        }

    def check(self, denoiser: Denoiser) -> Sequence[str]:
        """Say which words of captions the model does not read."""
        sides = [side for draw in range(len(self.chosen)) for side in self._captions(draw)]
        return lost_words(denoiser, [text for side in sides for text in side])

    def probes(self, extractor: Extractor) -> int:
        """One at each timestep of both images."""
        return 2 * len(extractor.timesteps)

    def objectives(self, extractor: Extractor, draws: Sequence[int]) -> Iterator[Objective]:
        """Each term of R reaches the probe that it contains: the winner's, then the loser's."""
        denoiser = extractor.denoiser
        better, worse = (self._side(denoiser, draws, side) for side in (0, 1))
        for own, other, sign in ((better, worse, 1), (worse, better, -1)):
            yield from preference_objectives(denoiser, own, other.x0, sign, extractor.spec)

    def _side(self, denoiser: Denoiser, draws: Sequence[int], side: int) -> Batch:
        """The winners of these draws (side 0) or the losers (1)."""
        pairs, chosen = self.query.pairs, [self.chosen[draw] for draw in draws]
        return encoded_batch(
            denoiser,
            [pairs.images(pair)[side] for pair in chosen],
            [pairs.captions(pair)[side] for pair in chosen],
            [pairs.ids(pair)[side] for pair in chosen],
        )

    def _captions(self, draw: int) -> tuple[Sequence[str], Sequence[str]]:
        return self.query.pairs.captions(self.chosen[draw])


def _digests(pairs: Pairs, pair: int) -> tuple[str, str]:
    """Sha256 of a pair's two images.

    Raises:
        QueryError: they are the same.
    """
    winner, loser = map(_digest, pairs.images(pair))
    if winner == loser:
        name = pairs.winners.samples[pairs.rows[pair][0]].id
        raise QueryError(
            f"{pairs.source}: winner and loser of {name!r} are the same picture, so nothing is "
            "preferred: take the pair out"
        )
    return winner, loser


def _digest(image: PIL.Image.Image) -> str:
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
