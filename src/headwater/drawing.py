"""A query's feature rows: one for each draw, computed once and kept in the index by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headwater import asking
from headwater.asking import Asked
from headwater.batching import BatchSize
from headwater.denoiser import Denoiser
from headwater.errors import NonFiniteError
from headwater.features import Extractor
from headwater.files import keep, read_tensors
from headwater.methods import Side
from headwater.probes import seeded_noise

# Why a question may have no gradient, by the type in its drawer's key; any, for lack of layers.
_NOTHING = {
    "concept": "c+ and c- may look alike to the model, ask for other words",
    "part": "the prompt may say nothing to the model, give the one that made the picture",
    "local": "the token may have learned nothing, ask with another picture or mask",
    "reward": "leave out what is flat in pictures from 0 to 1 (thresholds, rounding, clipping)",
    "preference": "winners and losers may look alike to the model, give other pairs",
}
_NO_LAYERS = "the index's layers may have no say in it, build one with other --parameters"


# How a concept is asked -> the function that asks it, and its probes at each timestep.
CONCEPT_DELTAS = {"concept": (asking.about_concept, 1), "contrast": (asking.about_contrast, 2)}


@runtime_checkable
class Drawer(Protocol):
    """A question, ready to be asked at any draw.

    Attributes:
        title: what is asked for, in a word or two.
        limit: how many draws make sense; a path without noise has one.
    """

    @property
    def title(self) -> str: ...

    @property
    def limit(self) -> int | None: ...

    def key(self, draws: range) -> Mapping[str, Any]:
        """All that these rows depend on besides the index, as JSON takes it; "type" is its kind."""
        ...

    def asked(self, machine: Extractor, draws: Sequence[int]) -> Iterator[Asked]:
        """What is asked at each probe of these draws, a batch of `len(draws)`."""
        ...

    def probes(self, machine: Extractor) -> int:
        """How many probes each draw has."""
        ...


@dataclass(frozen=True)
class ConceptDrawer:
    """A concept over contexts, one trajectory a draw: the slider, or a contrast of outputs."""

    title: str
    pairs: tuple[tuple[str, str], ...]
    base: str | None
    seed: int
    delta: str = "concept"
    limit: int | None = None

    def key(self, draws: range) -> Mapping[str, Any]:
        """The contexts of these draws."""
        pairs = [self.pairs[draw] for draw in draws]
        key = {"type": "concept", "pairs": pairs, "base": self.base, "seed": self.seed}
        return key if self.delta == "concept" else {**key, "delta": self.delta}

    def probes(self, machine: Extractor) -> int:
        """One at each timestep; of a contrast one under c+ and one under c-."""
        return len(machine.timesteps) * CONCEPT_DELTAS[self.delta][1]

    def asked(self, machine: Extractor, draws: Sequence[int]) -> Iterator[Asked]:
        """Trajectories under c+ (or the base prompt), asked what c+ and c- differ in there."""
        denoiser = machine.denoiser
        plus, minus = (
            _condition(denoiser, [self.pairs[draw][side] for draw in draws]) for side in (0, 1)
        )
        base = None if self.base is None else _condition(denoiser, [self.base] * len(draws))
        noise = trajectory_noise(denoiser, self.seed, draws)
        about, _ = CONCEPT_DELTAS[self.delta]
        yield from about(denoiser, noise, plus, minus, base, machine.timesteps)


@dataclass(frozen=True)
class PictureDrawer:
    """A method's own question about a picture, or about clean latents that its making aimed at.

    `targets` are (x0, timesteps): the picture at the index's timesteps, or x0hat of each step at
    that step alone.
    """

    title: str
    side: Side
    targets: tuple[tuple[Float[Tensor, "1 c h w"], tuple[int, ...]], ...]
    digest: str
    prompt: str
    seed: int
    mask: Float[Tensor, "1 1 h w"] | None = None
    inversion_guidance: float = 1.0

    @property
    def limit(self) -> int | None:
        """An inversion draws no noise."""
        return 1 if self.side.path == "inversion" else None

    def key(self, draws: range) -> Mapping[str, Any]:
        """The picture goes by its digest."""
        mask = None if self.mask is None else self.mask.flatten().tolist()
        steps = [timesteps for _, timesteps in self.targets]
        return {
            "type": "part" if self.side.delta == "concept" else "picture",
            "side": [self.side.path, self.side.delta],
            "picture": self.digest,
            "timesteps": steps,
            "prompt": self.prompt,
            "seed": self.seed,
            "mask": mask,
        }

    def probes(self, machine: Extractor) -> int:
        """One at each timestep of each target."""
        return sum(len(timesteps) for _, timesteps in self.targets)

    def asked(self, machine: Extractor, draws: Sequence[int]) -> Iterator[Asked]:
        """The side's delta at its probes of each target."""
        denoiser, count = machine.denoiser, len(draws)
        condition = denoiser.encode_captions([self.prompt] * count)
        common = {
            "ids": [f"query|{self.seed}|{draw}" for draw in draws],
            "seed": machine.seed,
            "mask": self.mask,
        }
        empty = _condition(denoiser, [""] * count) if self.side.delta == "concept" else None
        for x0, timesteps in self.targets:
            x0 = x0.expand(count, -1, -1, -1)
            if empty is not None and condition is not None:
                yield from asking.about_prompt(denoiser, x0, condition, empty, timesteps, **common)
            else:
                yield from asking.about_images(
                    denoiser,
                    self.side,
                    x0,
                    condition,
                    timesteps,
                    inversion_guidance=self.inversion_guidance,
                    **common,
                )


def trajectory_noise(
    denoiser: Denoiser, seed: int, draws: Sequence[int]
) -> Float[Tensor, "b c h w"]:
    """Where the trajectories of these draws begin."""
    noise = [seeded_noise(denoiser.latent_shape, seed, "trajectory", draw) for draw in draws]
    return torch.stack(noise).to(denoiser.device, denoiser.latent_dtype)


def _condition(denoiser: Denoiser, prompts: Sequence[str]) -> Tensor:
    encoded = denoiser.encode_captions(prompts)
    assert encoded is not None, "a model that reads no prompts is refused before"
    return encoded


def draw_rows(
    machine: Extractor, drawer: Drawer, draws: range, folder: Path, identity: str, fresh: bool
) -> tuple[Float[Tensor, "d k"], bool]:
    """One feature row for each draw, and whether they were there already.

    Args:
        folder: where rows are kept.
        identity: of the index: rows of another model or recipe are not these.

    Raises:
        NonFiniteError: the query's gradient is NaN or zero.
    """
    asked = drawer.key(draws)
    spec = json.dumps({**asked, "draws": [draws.start, draws.stop]})
    key = hashlib.sha256(f"{identity}\n{spec}".encode()).hexdigest()[:32]
    path = folder / f"{key}.safetensors"
    kept = None if fresh else read_tensors(path)
    if kept is not None:
        return kept["draws"], True
    rows = _computed(machine, drawer, draws)
    if not rows.isfinite().all():
        raise NonFiniteError(
            f"{drawer.title!r} gave a NaN or infinite gradient: compute in float32 if the model "
            "ran in half precision"
        )
    if not rows.any():
        why = _NOTHING.get(str(asked.get("type")), _NO_LAYERS)
        raise NonFiniteError(f"{drawer.title!r} gave an all-zero gradient: {why}")
    keep(path, {"draws": rows}, {"title": drawer.title})
    return rows, False


def _computed(machine: Extractor, drawer: Drawer, draws: range) -> Float[Tensor, "d k"]:
    probes = drawer.probes(machine)
    total = len(draws) * probes
    with tqdm(total=total, desc=drawer.title, unit="probe", delay=2, leave=False) as bar:

        def compute(part: Sequence[int]) -> Tensor:
            # Back from a trial of the batch size, or a batch that memory did not hold.
            bar.update((part[0] - draws.start) * probes - bar.n)
            return machine.query_rows(drawer.asked(machine, part), bar.update).float().cpu()

        batch = BatchSize(None, device=machine.denoiser.device)
        return torch.cat(list(batch.over(draws, compute)))
