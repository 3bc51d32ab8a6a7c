"""The pictures that an output is measured on: training images, given ones, or made ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from heapq import nsmallest
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.data.training_set import Sample, TrainingSet
from headwater.errors import BadImageError, QueryError
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import draw_latents, picture_noise
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.queries.words.prompts import contains, without

# How pictures of a concept are made.
STEPS = 25
# With fewer training images that name the concept, pictures of it are made.
FEWEST = 3
# The timesteps of a draw are shared out among so many pictures, which costs little more than one:
# how pictures differ is what answers scatter by. Of training images no draw has more than a
# quarter, since those that it has are not scored by it.
A_DRAW, SHARE = 5, 4
# All that says which pictures draws have.
RECIPE = (STEPS, FEWEST, A_DRAW, SHARE)


class Shown(Protocol):
    """Pictures of a concept by number, with the prompts of their output; as many as draws need.

    Attributes:
        a_draw: how many a draw has.
    """

    @property
    def a_draw(self) -> int: ...

    def words(self, count: int) -> str:
        """Which pictures the first `count` are, after "on"."""
        ...

    def pairs(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """(c+, c-) of these pictures: with the concept and without."""
        ...

    def key(self, number: int) -> Any:
        """What a picture depends on besides the model, as JSON."""
        ...

    def latents(self, denoiser: Denoiser, numbers: Sequence[int]) -> Float[Tensor, "b c *f h w"]:
        """These pictures."""
        ...

    @property
    def training_rows(self) -> Sequence[Collection[int]]:
        """Of each the training images that have it; empty where they are none of these."""
        ...


@dataclass(frozen=True)
class Given:
    """Pictures that somebody has, each with a caption of its own where one names the concept.

    A picture may have several numbers: all come before any comes twice.

    Attributes:
        order: the row of each picture by number.
    """

    pictures: TrainingSet
    order: Sequence[int]
    query: Concept
    a_draw: int

    def words(self, count: int) -> str:
        """Which pictures they are."""
        different = len(set(self.order[:count]))
        return f"{different} picture{'s' if different > 1 else ''} of {self.pictures.source}"

    def pairs(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """Of each picture's caption, or of the question's prompt."""
        words, anchor = self.query.concept, self.query.anchor
        samples = [self.pictures.samples[self.order[number]] for number in numbers]
        named = [naming(sample, words) or self.query.prompt for sample in samples]
        return [(caption, without(caption, words, anchor)) for caption in named]

    def key(self, number: int) -> Any:
        """The picture, by the fingerprint of its set."""
        row = self.order[number]
        return [self.pictures.fingerprint, self.pictures.samples[row].id]

    def latents(self, denoiser: Denoiser, numbers: Sequence[int]) -> Float[Tensor, "b c *f h w"]:
        """Opened and encoded.

        Raises:
            QueryError: one is no picture.
        """
        try:
            images = [self.pictures.image(self.order[number]) for number in numbers]
        except BadImageError as error:
            said = str(error).rpartition(";")[0]  # what follows is advice for training images
            raise QueryError(f"{said}; mend it, or ask on other --pictures") from None
        return denoiser.encode_images(images)

    @property
    def training_rows(self) -> Sequence[Collection[int]]:
        """They are none of these."""
        return ()


@dataclass(frozen=True)
class Trained(Given):
    """Training images of which a caption names the concept.

    The model has seen them, but none of them is asked about on its own picture.

    Attributes:
        same: of each row the rows of the same picture, itself among them.
    """

    same: Mapping[int, Collection[int]]

    def words(self, count: int) -> str:
        """Which pictures they are."""
        different = len(set(self.order[:count]))
        return f"{different} training images that name it, each scored by the others"

    @property
    def training_rows(self) -> Sequence[Collection[int]]:
        """Each image, and others of the same file, whatever their captions say."""
        return [self.same[row] for row in self.order]


def given(pictures: TrainingSet, query: Concept, draws: int, timesteps: int) -> Given:
    """These pictures in an order that the seed decides, for draws at so many timesteps."""
    a_draw = max(1, min(A_DRAW, timesteps))
    order = _ordered(pictures, range(len(pictures)), query.seed, draws * a_draw)
    return Given(pictures, order, query, a_draw)


def trained(images: TrainingSet, query: Concept, draws: int, timesteps: int) -> Trained | None:
    """Training images that name the concept, likewise; None where they are too few."""
    named = {
        row: _place_of(row, each)
        for row, each in enumerate(images.samples)
        if naming(each, query.concept)
    }
    if len(set(named.values())) < FEWEST:
        return None
    rows = list(named)
    a_draw = max(1, min(A_DRAW, timesteps, len(rows) // SHARE))
    order = _ordered(images, rows, query.seed, draws * a_draw)
    same: dict[str | int, list[int]] = {named[row]: [] for row in order}
    for row, each in enumerate(images.samples):
        if (place := _place_of(row, each)) in same:
            same[place].append(row)
    return Trained(images, order, query, a_draw, {row: same[named[row]] for row in order})


def _place_of(row: int, sample: Sample) -> str | int:
    """Where its picture is, by which it is known without a look at it."""
    return sample.uri or row


def naming(sample: Sample, words: str) -> str:
    """The first caption of an image that names a concept; "" where none does.

    >>> naming(Sample("1", "a dog", "", ("a dog", "a red dog", "my red pet")), "red")
    'a red dog'
    """
    return next((text for text in sample.all_captions if contains(text, words)), "")


def _ordered(pictures: TrainingSet, rows: Sequence[int], seed: int, count: int) -> Sequence[int]:
    """All before any comes twice; the first stay where they are when another one is taken out."""
    order: list[int] = []
    while len(order) < count:
        place = partial(_place, pictures, f"{seed}|{len(order) // len(rows)}")
        order += nsmallest(count - len(order), rows, key=place)
    return order


def _place(pictures: TrainingSet, order: str, row: int) -> bytes:
    return sha256(f"{order}|{pictures.samples[row].id}".encode()).digest()


@dataclass(frozen=True)
class Made:
    """A picture that the model makes for each draw, under its context's c+.

    Attributes:
        contexts: (c+, c-) of each draw.
    """

    contexts: Sequence[tuple[str, str]]
    seed: int
    guidance: float
    a_draw: int = 1  # to make one takes as long as a draw

    def words(self, count: int) -> str:
        """Which pictures they are."""
        return "pictures that the model makes of it"

    def pairs(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """The contexts that they are made under."""
        return [self.contexts[number] for number in numbers]

    def key(self, number: int) -> Any:
        """How the picture is made."""
        return dict(self.asked(number).picture_facts())

    def asked(self, number: int) -> Image:
        """A picture, as a question of its own."""
        plus, _ = self.contexts[number]
        return Image(plus, seed=self.seed + number, guidance=self.guidance, steps=STEPS)

    def latents(self, denoiser: Denoiser, numbers: Sequence[int]) -> Float[Tensor, "b c *f h w"]:
        """Made side by side, which for a small model takes no longer than one of them."""
        asked = [self.asked(number) for number in numbers]
        noise = torch.stack([picture_noise(denoiser, each.seed) for each in asked])
        prompts = [each.prompt for each in asked]
        return draw_latents(denoiser, prompts, noise, guidance=self.guidance, steps=STEPS)

    @property
    def training_rows(self) -> Sequence[Collection[int]]:
        """They are none of these."""
        return ()
