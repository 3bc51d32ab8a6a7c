"""The same prompts and seeds, made again by another model: what has changed?

Every model makes the pictures of a concept from the same noise (common random numbers). Models of
the same data make nearly the same pictures of the same noise (journey-trak.txt B.1), so what
differs is what the missing images taught, and how far trainings differ anyway.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headwater.errors import ParameterError
from headwater.evaluation.retraining.outputs import BATCH, samples
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import ddim, seeded_noise, steered
from headwater.models.schedule import evenly_spaced
from headwater.queries.prompts import contains
from headwater.report.export import slug
from headwater.storage.files import read_tensors, write_tensors

STEPS, GUIDANCE = 20, 3.0  # as `outputs.samples` has them

Pictures = UInt8[Tensor, "n 3 h w"]


@dataclass(frozen=True)
class Asked:
    """The prompts of one concept: half name it, half do not.

    Attributes:
        prompts: captions of the data set; the first `naming` name the concept.
        seeds: of each picture's noise.
    """

    concept: str
    prompts: tuple[str, ...]
    naming: int
    seeds: tuple[int, ...]


def asked(concept: str, prompt: str, captions: Sequence[str], count: int, seed: int = 0) -> Asked:
    """`count` captions that name the concept, then as many that do not.

    No caption comes twice before all have come once. The first of many are those of fewer.

    Args:
        prompt: what is asked where no caption names the concept.
    """
    naming = sorted({c for c in captions if contains(c, concept)}) or [prompt]
    others = sorted({c for c in captions if c and not contains(c, concept)})
    chosen = _drawn(naming, count, f"{seed}|{concept}|naming")
    elsewhere = _drawn(others, count, f"{seed}|{concept}|others") if others else []
    first = seed * 1_000_000
    seeds = [*range(first, first + count), *range(first + 500_000, first + 500_000 + count)]
    prompts = (*chosen, *elsewhere)
    return Asked(concept, prompts, count, tuple(seeds[: len(prompts)]))


def _drawn(pool: Sequence[str], count: int, key: str) -> list[str]:
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
    steps = evenly_spaced(STEPS, train_timesteps)
    if not any(t in window for t in steps):
        raise ParameterError(
            f"--window {window} holds no step: pictures are made at {steps[-1]}, {steps[-2]}, ... "
            f"{steps[0]}, and the window goes down from its first number to above its second"
        )


def made(denoiser: Denoiser, ask: Asked) -> Pictures:
    """The model's pictures of all prompts."""
    latents = samples(denoiser, ask.prompts, seeds=ask.seeds, steps=STEPS, guidance=GUIDANCE)
    return _pictures(denoiser, latents)


def made_with(full: Denoiser, other: Denoiser, window: Window, ask: Asked) -> Pictures:
    """The full model's pictures, if the other model takes its place in a window of timesteps.

    The step-window swap of journey-trak.txt 3.2 and 5.3.
    """
    latents = []
    for start in range(0, len(ask.prompts), BATCH):
        rows = slice(start, start + BATCH)
        noise = [seeded_noise(full.latent_shape, "evaluation", each) for each in ask.seeds[rows]]
        latents.append(
            swapped(full, other, window, torch.stack(noise), ask.prompts[rows], STEPS, GUIDANCE)
        )
    return _pictures(full, torch.cat(latents))


@torch.no_grad()
def swapped(
    full: Denoiser,
    other: Denoiser,
    window: Window,
    noise: Float[Tensor, "b c h w"],
    prompts: Sequence[str],
    steps: int,
    guidance: float,
) -> Float[Tensor, "b c h w"]:
    """x0 of DDIM (eta = 0) as in `probes.sample`, each step by one model or the other."""
    words = {
        model: [model.encode_captions(list(texts)) for texts in (prompts, [""] * len(prompts))]
        for model in (full, other)
    }

    def predict(xt: Tensor, t: int) -> Tensor:
        model = other if t in window else full
        condition, empty = words[model]
        return steered(model, xt, t, condition, empty, guidance)

    begun = noise.to(full.device, full.latent_dtype)
    *_, (_, x0) = ddim(full, begun, predict, steps)
    return x0


@torch.no_grad()
def _pictures(denoiser: Denoiser, latents: Tensor) -> Pictures:
    """As somebody would look at them: 8 bits."""
    parts = [denoiser.pixels(part.to(denoiser.device)).cpu() for part in latents.split(BATCH)]
    return (torch.cat(parts) * 255).round().byte()


def kept(
    folder: Path,
    ask: Asked,
    model: Denoiser,
    other: Denoiser | None = None,
    window: Window | None = None,
) -> Path:
    """The file of a model's pictures, made once; its name has a digest of all that they depend on.

    Args:
        other: a model that takes its place in the window.
    """
    models = [each.fingerprint() for each in (model, other) if each is not None]
    facts = [models, str(window), vars(ask), STEPS, GUIDANCE]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    path = folder / f"{slug(ask.concept)}-{digest}.safetensors"
    if read_tensors(path) is None:
        if other is None or window is None:
            pictures = made(model, ask)
        else:
            pictures = made_with(model, other, window, ask)
        write_tensors(path, {"pictures": pictures}, {})
    return path


def read_pictures(path: Path) -> Pictures:
    """What `kept` has written."""
    found = read_tensors(path)
    assert found is not None, f"{path} is written before any model is retrained"
    return found["pictures"]
