"""The same prompts and seeds, made again by another model: what has changed?

Every model makes the pictures of a concept from the same noise (common random numbers). Models of
the same data make nearly the same pictures of the same noise (journey-trak.txt B.1), so what
differs is what the missing images taught, and how far trainings differ anyway.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headwater.errors import ParameterError, StoreError
from headwater.evaluation.retraining.outputs import (
    BATCH,
    SAMPLER,
    SamplerOptions,
    samples,
    starting_noise,
)
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import ddim, steered
from headwater.models.schedule import evenly_spaced
from headwater.queries.words.prompts import contains
from headwater.storage.cache import read, remember
from headwater.storage.files import slug

Pictures = UInt8[Tensor, "n 3 h w"]


@dataclass(frozen=True)
class ConceptPrompts:
    """The prompts of one concept: half name it, half do not.

    Attributes:
        prompts: captions of the data set; the first `naming` name the concept.
        seeds: of each picture's noise.
    """

    concept: str
    prompts: tuple[str, ...]
    naming: int
    seeds: tuple[int, ...]

    def facts(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "concept": self.concept,
            "prompts": self.prompts,
            "naming": self.naming,
            "seeds": self.seeds,
        }


def prompts_for(
    concept: str, prompt: str, captions: Iterable[str], count: int, seed: int = 0
) -> ConceptPrompts:
    """`count` captions that name the concept, then as many that do not.

    No caption comes twice before all have come once. The first of many are those of fewer.

    Args:
        prompt: what is asked where no caption names the concept.
    """
    naming = sorted({c for c in captions if contains(c, concept)}) or [prompt]
    others = sorted({c for c in captions if c and not contains(c, concept)})
    chosen = _draw(naming, count, f"{seed}|{concept}|naming")
    elsewhere = _draw(others, count, f"{seed}|{concept}|others") if others else []
    first = seed * 1_000_000
    seeds = [*range(first, first + count), *range(first + 500_000, first + 500_000 + count)]
    prompts = (*chosen, *elsewhere)
    return ConceptPrompts(concept, prompts, count, tuple(seeds[: len(prompts)]))


def _draw(pool: Sequence[str], count: int, key: str) -> list[str]:
    chance, drawn = random.Random(key), []
    while len(drawn) < count:
        drawn += chance.sample(pool, len(pool))
    return drawn[:count]


# --- pictures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Timesteps t with start >= t > end, which go from noise to picture."""

    start: int
    end: int

    def __contains__(self, t: int) -> bool:
        return self.start >= t > self.end

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"


def read_windows(text: str) -> list[Window]:
    """Windows written as START:END, with commas; each once.

    Raises:
        ParameterError: one is none, or there is none.
    """
    return list(dict.fromkeys(_read_window(part.strip()) for part in text.split(",")))


def _read_window(text: str) -> Window:
    start, _, end = text.partition(":")
    if not (start.isdecimal() and end.isdecimal()):
        raise ParameterError(f"--window {text!r} must be two timesteps, as in 400:300")
    return Window(int(start), int(end))


def require_step(window: Window, train_timesteps: int) -> None:
    """Refuse a window in which a model of so many timesteps makes no step of a picture.

    Raises:
        ParameterError: names the steps.
    """
    steps = evenly_spaced(SAMPLER.steps, train_timesteps)
    if not any(t in window for t in steps):
        raise ParameterError(
            f"--window {window} holds no step: pictures are made at {steps[-1]}, {steps[-2]}, ... "
            f"{steps[0]}, and the window goes down from its first number to above its second"
        )


@dataclass(frozen=True)
class Swap:
    """The full model, if another takes its place in a window of timesteps.

    The step-window swap of journey-trak.txt 3.2 and 5.3.
    """

    full: Denoiser
    other: Denoiser
    window: Window

    def model_at(self, t: int) -> Denoiser:
        """Whose turn it is."""
        return self.other if t in self.window else self.full


def make_pictures(made_by: Denoiser | Swap, prompts: ConceptPrompts) -> Pictures:
    """A model's pictures of all prompts, or those of two that take turns."""
    if not isinstance(made_by, Swap):
        latents = samples(made_by, prompts.prompts, seeds=prompts.seeds, sampler=SAMPLER)
        return _decode(made_by, latents)
    parts = []
    for start in range(0, len(prompts.prompts), BATCH):
        rows = slice(start, start + BATCH)
        noise = starting_noise(made_by.full, prompts.seeds[rows])
        parts.append(sample_swapped(made_by, noise, prompts.prompts[rows], SAMPLER))
    return _decode(made_by.full, torch.cat(parts))


@torch.no_grad()
def sample_swapped(
    swap: Swap, noise: Float[Tensor, "b c h w"], prompts: Sequence[str], sampler: SamplerOptions
) -> Float[Tensor, "b c h w"]:
    """x0 of DDIM (eta = 0) as in `sampling.sample`, each step by one model or the other."""
    conditions = {
        model: [model.encode_captions(list(texts)) for texts in (prompts, [""] * len(prompts))]
        for model in (swap.full, swap.other)
    }

    def predict(xt: Tensor, t: int) -> Tensor:
        model = swap.model_at(t)
        condition, empty = conditions[model]
        return steered(model, xt, t, condition, empty, sampler.guidance)

    begun = noise.to(swap.full.device, swap.full.latent_dtype)
    *_, (_, x0) = ddim(swap.full, begun, predict, sampler.steps)
    return x0


@torch.no_grad()
def _decode(model: Denoiser, latents: Tensor) -> Pictures:
    """As somebody would look at them: 8 bits."""
    parts = [model.pixels(part.to(model.device)).cpu() for part in latents.split(BATCH)]
    return (torch.cat(parts) * 255).round().byte()


# --- pictures that are kept -----------------------------------------------------------------------


@dataclass(frozen=True)
class PictureFile:
    """Where pictures are kept, for other processes too.

    Attributes:
        folder: of the cache.
        facts: all that the pictures depend on, as JSON.
        concept: of the prompts.
    """

    folder: Path
    facts: tuple[Any, ...]
    concept: str

    @property
    def name(self) -> str:
        """What the keys of studies call these pictures: models that are finished go by it."""
        digest = hashlib.sha256(json.dumps(self.facts).encode()).hexdigest()[:24]
        return f"{slug(self.concept)}-{digest}.safetensors"

    def read(self) -> Pictures:
        """The pictures.

        Raises:
            StoreError: they are gone, or could not be written.
        """
        entry = read(self.folder, self.facts)
        if entry is None:
            raise StoreError(
                f"the full model's pictures of {self.concept!r} are not in {self.folder}: run the "
                "same command again, with a folder that can be written to"
            )
        return entry.tensors["pictures"]


def picture_file(folder: Path, prompts: ConceptPrompts, made_by: Denoiser | Swap) -> PictureFile:
    """Where the pictures of a model, or of two that take turns, are kept, or will be."""
    if isinstance(made_by, Swap):
        models, window = [made_by.full, made_by.other], str(made_by.window)
    else:
        models, window = [made_by], str(None)
    fingerprints = [model.fingerprint() for model in models]
    facts = (fingerprints, window, prompts.facts(), SAMPLER.steps, SAMPLER.guidance)
    return PictureFile(folder, facts, prompts.concept)


def cached_pictures(folder: Path, prompts: ConceptPrompts, made_by: Denoiser | Swap) -> PictureFile:
    """Those pictures, made once for all that they depend on."""
    file = picture_file(folder, prompts, made_by)
    remember(folder, file.facts, lambda: {"pictures": make_pictures(made_by, prompts)})
    return file
