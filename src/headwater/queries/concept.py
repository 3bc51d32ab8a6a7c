"""What can be asked. A concept is a set of contexts: pairs (c+, c-) that differ in it alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headwater.errors import QueryError
from headwater.features.extractor import Extractor
from headwater.features.objectives import Asked, about_concept, about_contrast
from headwater.features.spec import DRAWS, MOST_DRAWS
from headwater.queries.draws import _condition, trajectory_noise
from headwater.queries.prompts import contains, without
from headwater.queries.query import require_draws

# How a concept is asked -> the function that asks it, and its probes at each timestep.
CONCEPT_DELTAS = {"concept": (about_concept, 1), "contrast": (about_contrast, 2)}
# With fewer captions than this that name the concept, `auto` asks for the bare words.
MIN_CONTEXTS = 3
NAMED_CONTEXTS = ("auto", "prompt", "bare")  # any other is a file


@dataclass(frozen=True)
class Concept:
    """Which training images taught the model `concept`, as it stands in `prompt`?

    Args:
        prompt: the prompt that the user has in mind.
        concept: words of the prompt.
        minus: the complementary prompt; by default `prompt` with the words taken out.
        base: the prompt under which trajectories run and gradients are taken; by default c+.
        context: "prompt" asks in this one prompt, as the paper does; "bare" asks for the words
            alone against the empty prompt; "auto" over training captions that name the concept,
            with and without it, else bare; anything else is a file of contexts, one a line:
            `c+ <tab> c-`, or a caption that holds the words.
        draws: trajectories, each with its own noise and context; None takes as many as a
            stable top ten needs.
        seed: of noise and of the choice of contexts.
        swap: exchange c+ and c- in every context, and so ask for the lack of the concept.

    Raises:
        QueryError: the words are not in the prompt, or c+ equals c-.
    """

    prompt: str
    concept: str
    minus: str | None = None
    base: str | None = None
    context: str = "auto"
    draws: int | None = DRAWS
    seed: int = 0
    swap: bool = False

    def __post_init__(self) -> None:
        if not contains(self.prompt, self.concept):
            raise QueryError(
                f"--concept {self.concept!r} is not in the prompt {self.prompt!r}: "
                "give words of the prompt"
            )
        if _same(self.prompt, self.complement):
            raise QueryError(
                f"--minus {self.complement!r} equals the prompt, so nothing is asked: "
                "give a prompt without the concept"
            )
        if self.minus is not None and self.context not in ("auto", "prompt"):
            raise QueryError(
                f"--minus goes with one prompt, not with --context {self.context}: leave one out"
            )
        require_draws(self.draws)

    @property
    def kind(self) -> str:
        """Which of the kinds of question it is."""
        return "concept"

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return f"the lack of {self.concept}" if self.swap else self.concept

    @property
    def complement(self) -> str:
        """The prompt without the concept."""
        return without(self.prompt, self.concept) if self.minus is None else self.minus

    @property
    def pair(self) -> tuple[str, str]:
        """(c+, c-) in the prompt itself."""
        return (self.complement, self.prompt) if self.swap else (self.prompt, self.complement)


@dataclass(frozen=True)
class Contexts:
    """One (c+, c-) pair for every draw, and where they came from, in words."""

    kind: str
    pairs: tuple[tuple[str, str], ...]
    where: str

    @property
    def description(self) -> str:
        """How a concept is asked for in them, to go on from "asked"."""
        many = self.kind in ("captions", "file")
        return f"over {len(set(self.pairs))} {self.where}" if many else self.where

    def first(self, draws: int) -> Contexts:
        """Those of so many draws."""
        return replace(self, pairs=self.pairs[:draws])


def contexts(query: Concept, captions: Sequence[str]) -> Contexts:
    """Choose the contexts of a concept, one for every draw that it may need.

    A minus given by the user is a context given by the user: `auto` then asks in the prompt. The
    first contexts of many draws are those of fewer.
    """
    chosen = _chosen(query, captions, query.draws or MOST_DRAWS)
    if not query.swap:
        return chosen
    pairs = tuple((minus, plus) for plus, minus in chosen.pairs)
    return Contexts(chosen.kind, pairs, f"{chosen.where}, c+ and c- exchanged")


def _chosen(query: Concept, captions: Sequence[str], draws: int) -> Contexts:
    if query.context == "prompt" or (query.context == "auto" and query.minus is not None):
        pair = (query.prompt, query.complement)
        return Contexts("prompt", (pair,) * draws, "in this one prompt")
    if query.context == "bare":
        return _bare(query, draws)
    if query.context == "auto":
        named = sorted({c for c in captions if contains(c, query.concept)})
        if len(named) < MIN_CONTEXTS:
            return _bare(query, draws)
        pool = [(caption, without(caption, query.concept)) for caption in named]
        where = "training captions that name it, with and without the words"
        return _drawn(query, pool, draws, "captions", where)
    pool = _read_contexts(Path(query.context), query.concept)
    return _drawn(query, pool, draws, "file", f"contexts of {query.context}")


def _bare(query: Concept, draws: int) -> Contexts:
    pair = (query.concept, "")
    return Contexts("bare", (pair,) * draws, "the bare words against the empty prompt")


def _drawn(
    query: Concept, pool: list[tuple[str, str]], draws: int, kind: str, where: str
) -> Contexts:
    """`draws` contexts from the pool: all before any comes twice."""
    rng = random.Random(f"{query.seed}|{query.concept}")
    pairs: list[tuple[str, str]] = []
    while len(pairs) < draws:
        pairs += rng.sample(pool, len(pool))
    return Contexts(kind, tuple(pairs[:draws]), where)


def _read_contexts(path: Path, concept: str) -> list[tuple[str, str]]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(
            f"--context {str(path)!r} is neither auto, prompt, bare nor a readable file ({error})"
        ) from None
    pairs = []
    for number, line in enumerate(lines, 1):
        plus, tab, minus = line.partition("\t")
        pair = (plus.strip(), minus.strip() if tab else without(plus, concept))
        if _same(*pair):
            raise QueryError(
                f"{path} line {number}: c+ equals c- ({plus!r}): give a caption that holds "
                f"{concept!r}, or `c+ <tab> c-`"
            )
        pairs.append(pair)
    if not pairs:
        raise QueryError(f"{path} holds no context: give one caption a line")
    return pairs


def _same(plus: str, minus: str) -> bool:
    return plus.split() == minus.split()


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
