"""The pictures that an output is measured on: training images, given ones, or made ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.data.training_set import Sample, TrainingSet
from headwater.errors import BadImageError, QueryError
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import draw_latents, picture_noise
from headwater.queries.concept import Concept
from headwater.queries.draws import without_repeats
from headwater.queries.image import Image
from headwater.queries.words.prompts import contains, without

# How pictures of a concept are made.
STEPS = 25
# With fewer training images that name the concept, pictures of it are made.
FEWEST = 3


class Shown(Protocol):
    """One picture of a concept for each draw, with the prompts of its output."""

    def words(self, draws: int) -> str:
        """Which pictures the first draws are of, after "on"."""
        ...

    def pairs(self, draws: Sequence[int]) -> list[tuple[str, str]]:
        """(c+, c-) of these draws' pictures: with the concept and without."""
        ...

    def key(self, draw: int) -> Any:
        """What the picture of a draw depends on besides the model, as JSON."""
        ...

    def latents(self, denoiser: Denoiser, draws: Sequence[int]) -> Float[Tensor, "b c *f h w"]:
        """The pictures of these draws."""
        ...

    @property
    def training_rows(self) -> Sequence[int]:
        """The training image of each draw; empty where they are none of these."""
        ...


@dataclass(frozen=True)
class Given:
    """Pictures that somebody has, each with a caption of its own where one names the concept.

    Several draws may be of one picture: all before any comes twice.

    Attributes:
        order: the picture of each draw, by its row.
    """

    pictures: TrainingSet
    order: Sequence[int]
    query: Concept

    def words(self, draws: int) -> str:
        """Which pictures they are."""
        count = len(set(self.order[:draws]))
        return f"{count} picture{'s' if count > 1 else ''} of {self.pictures.source}"

    def pairs(self, draws: Sequence[int]) -> list[tuple[str, str]]:
        """Of each picture's caption, or of the question's prompt."""
        words, anchor = self.query.concept, self.query.anchor
        samples = [self.pictures.samples[self.order[draw]] for draw in draws]
        named = [naming(sample, words) or self.query.prompt for sample in samples]
        return [(caption, without(caption, words, anchor)) for caption in named]

    def key(self, draw: int) -> Any:
        """The picture, by the fingerprint of its set."""
        row = self.order[draw]
        return [self.pictures.fingerprint, self.pictures.samples[row].id]

    def latents(self, denoiser: Denoiser, draws: Sequence[int]) -> Float[Tensor, "b c *f h w"]:
        """Opened and encoded.

        Raises:
            QueryError: one is no picture.
        """
        try:
            images = [self.pictures.image(self.order[draw]) for draw in draws]
        except BadImageError as error:
            said = str(error).rpartition(";")[0]  # what follows is advice for training images
            raise QueryError(f"{said}; mend it, or take it out") from None
        return denoiser.encode_images(images)

    @property
    def training_rows(self) -> Sequence[int]:
        """They are none of these."""
        return ()


@dataclass(frozen=True)
class Trained(Given):
    """Training images of which a caption names the concept.

    The model has seen them, but none of them is asked about on its own picture.
    """

    def words(self, draws: int) -> str:
        """Which pictures they are."""
        count = len(set(self.order[:draws]))
        return f"{count} training images that name it, each scored by the others"

    @property
    def training_rows(self) -> Sequence[int]:
        """The image of each draw."""
        return self.order


def given(pictures: TrainingSet, query: Concept, draws: int) -> Given:
    """These pictures in an order that the seed decides."""
    return Given(pictures, _ordered(pictures, range(len(pictures)), query, draws), query)


def trained(images: TrainingSet, query: Concept, draws: int) -> Trained | None:
    """Training images that name the concept in such an order; None where they are too few."""
    rows = [row for row, each in enumerate(images.samples) if naming(each, query.concept)]
    if len(rows) < FEWEST:
        return None
    return Trained(images, _ordered(images, rows, query, draws), query)


def naming(sample: Sample, words: str) -> str:
    """The first caption of an image that names a concept; "" where none does.

    >>> naming(Sample("1", "a dog", "", ("a dog", "a red dog", "my red pet")), "red")
    'a red dog'
    """
    return next((text for text in sample.all_captions if contains(text, words)), "")


def _ordered(
    pictures: TrainingSet, rows: Sequence[int], query: Concept, draws: int
) -> Sequence[int]:
    return without_repeats(rows, draws, random.Random(f"{query.seed}|{pictures.fingerprint}"))


@dataclass(frozen=True)
class Made:
    """A picture that the model makes for each draw, under its context's c+.

    Attributes:
        contexts: (c+, c-) of each draw.
    """

    contexts: Sequence[tuple[str, str]]
    seed: int
    guidance: float

    def words(self, draws: int) -> str:
        """Which pictures they are."""
        return "pictures that the model makes of it"

    def pairs(self, draws: Sequence[int]) -> list[tuple[str, str]]:
        """The contexts that they are made under."""
        return [self.contexts[draw] for draw in draws]

    def key(self, draw: int) -> Any:
        """How the picture is made."""
        return dict(self.asked(draw).picture_facts())

    def asked(self, draw: int) -> Image:
        """The picture of a draw."""
        plus, _ = self.contexts[draw]
        return Image(plus, seed=self.seed + draw, guidance=self.guidance, steps=STEPS)

    def latents(self, denoiser: Denoiser, draws: Sequence[int]) -> Float[Tensor, "b c *f h w"]:
        """Made side by side, which for a small model takes no longer than one of them."""
        asked = [self.asked(draw) for draw in draws]
        noise = torch.stack([picture_noise(denoiser, each.seed) for each in asked])
        prompts = [each.prompt for each in asked]
        return draw_latents(denoiser, prompts, noise, guidance=self.guidance, steps=STEPS)

    @property
    def training_rows(self) -> Sequence[int]:
        """They are none of these."""
        return ()
