"""A concept: which training images taught the model what these words of a prompt mean?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.errors import MethodError, QueryError
from headwater.features.extractor import Extractor
from headwater.features.objectives import Objective, concept_objectives, contrast_objectives
from headwater.features.spec import DRAWS
from headwater.models.denoiser import Denoiser
from headwater.queries.contexts import Contexts, choose_contexts, same_words
from headwater.queries.draws import encode_prompts, trajectory_noise
from headwater.queries.query import (
    Description,
    Name,
    Question,
    Setting,
    require_draws,
    require_text,
)
from headwater.queries.words.presets import preset_named
from headwater.queries.words.prompts import contains, without
from headwater.queries.words.token_limit import lost_words, require_read
from headwater.queries.words.word_forms import inflections

# How a concept is asked -> what asks it so, and its probes at each timestep.
CONCEPT_DELTAS = {"concept": (concept_objectives, 1), "contrast": (contrast_objectives, 2)}


@dataclass(frozen=True)
class Concept(Question):
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
        alternatives: for `presence`: other values that an image could show in the concept's place,
            as other colours; None takes those that captions have there, () none.
        anchor: words that stand in the concept's place in c-, as "shape" for "star"; by default
            its words are taken out and nothing stands there.

    Raises:
        QueryError: the words are no text or not in the prompt, c+ equals c-, the anchor names the
            concept or comes with a minus, or alternatives name nothing but the concept.

    >>> Concept("a red star in hatched style", "hatched").complement
    'a red star'
    """

    prompt: str
    concept: str
    minus: str | None = None
    base: str | None = None
    context: str = "auto"
    draws: int | None = DRAWS
    seed: int = 0
    swap: bool = False
    alternatives: tuple[str, ...] | None = None
    anchor: str = ""

    kind = "concept"

    def __post_init__(self) -> None:
        require_text(prompt=self.prompt, concept=self.concept, anchor=self.anchor)
        if not contains(self.prompt, self.concept):
            near = " or ".join(map(repr, inflections(self.concept, [self.prompt])))
            mend = f"it holds {near}, so give that" if near else "give words of the prompt"
            raise QueryError(
                f"--concept {self.concept!r} is not in the prompt {self.prompt!r}: {mend}"
            )
        if same_words(self.prompt, self.complement):
            raise QueryError(
                f"--minus {self.complement!r} equals the prompt, so nothing is asked: "
                "give a prompt without the concept"
            )
        if self.minus is not None and self.context not in ("auto", "prompt"):
            raise QueryError(
                f"--minus goes with one prompt, not with --context {self.context}: leave one out"
            )
        if self.anchor and self.minus is not None:
            raise QueryError("--minus is the whole of c-: leave it or --anchor out")
        if contains(self.anchor, self.concept):
            raise QueryError(
                f"--anchor {self.anchor!r} names {self.concept!r} itself: give a word for its kind"
            )
        require_draws(self.draws)
        self._require_alternatives()

    def _require_alternatives(self) -> None:
        given = self.alternatives
        if isinstance(given, str) or not all(isinstance(each, str) for each in given or ()):
            raise QueryError(f"alternatives {given!r} are no list of texts: give ('red', 'blue')")
        own = " ".join(self.concept.split()).casefold()
        strange = [each for each in given or () if not each.strip() or each.casefold() == own]
        if strange:
            raise QueryError(
                f"--alternatives: {strange[0]!r} is no alternative to {self.concept!r}: name what "
                "else could stand in its place"
            )

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return f"the lack of {self.concept}" if self.swap else self.concept

    @property
    def complement(self) -> str:
        """The prompt without the concept."""
        if self.minus is not None:
            return self.minus
        return without(self.prompt, self.concept, self.anchor)

    @property
    def pair(self) -> tuple[str, str]:
        """(c+, c-) in the prompt itself."""
        return (self.complement, self.prompt) if self.swap else (self.prompt, self.complement)

    def name(self) -> Name:
        """What was asked for, as it stands in a sentence."""
        return Name(f"the lack of “{self.concept}”", False) if self.swap else Name(self.concept)

    def facts(self) -> Mapping[str, Any]:
        """Its own entries of the JSON answer."""
        plus, minus = self.pair
        return {"title": self.title, "concept": self.concept, "plus": plus, "minus": minus}

    def likeness(self) -> str:
        """Training images can be like the words."""
        return self.concept

    def drawer(self, setting: Setting) -> ConceptDrawer:
        """The question, ready to be asked.

        Raises:
            QueryError: the file of contexts cannot be read.
        """
        contexts = choose_contexts(self, setting.captions)
        return ConceptDrawer(self, contexts, setting.side.delta)


def preset(name: str, draws: int | None = DRAWS, seed: int = 0) -> list[Concept]:
    """A case study of the Concept-TRAK paper, in its one prompt: `words.presets.PRESETS`.

    Where the paper asks in both directions, a second question asks for the lack of the concept.

    Args:
        draws: as of `Concept`. The paper takes 1,024 points of trajectories.
        seed: as of `Concept`.

    Raises:
        QueryError: there is none of that name.

    >>> [question.title for question in preset("distorted-hands")]
    ['distorted hands', 'the lack of distorted hands']
    """
    row = preset_named(name)
    same: Any = dict(minus=row.minus, base=row.base, context="prompt", draws=draws, seed=seed)
    directions = (False, True) if row.both else (False,)
    return [Concept(row.plus, row.concept, **same, swap=swap) for swap in directions]


@dataclass(frozen=True)
class ConceptDrawer:
    """A concept over contexts, one trajectory a draw: the slider, or a contrast of outputs."""

    query: Concept
    contexts: Contexts
    delta: str = "concept"
    limit: int | None = None
    once: str = ""
    training_rows: Sequence[Collection[int]] = ()

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.query.title

    def describe(self, draws: int) -> Description:
        """In which contexts it is asked."""
        contexts = self.contexts.first(draws)
        facts = {
            "base": self.query.base or "c+",
            "swap": self.query.swap,
            "context": contexts.kind,
            "contexts": [list(pair) for pair in contexts.distinct],
        }
        return Description(contexts.words, facts)

    def key(self, draws: range) -> Mapping[str, Any]:
        """The contexts of these draws."""
        pairs = [self.contexts.pairs[draw] for draw in draws]
        key = {"type": "concept", "pairs": pairs, "base": self.query.base, "seed": self.query.seed}
        return key if self.delta == "concept" else {**key, "delta": self.delta}

    def check(self, denoiser: Denoiser) -> Sequence[str]:
        """Refuse a model that reads no prompts, and a concept that it does not get to read.

        Raises:
            MethodError, QueryError: so it is.
        """
        if not denoiser.conditional:
            raise MethodError(
                f"{denoiser.source} reads no prompts, so it cannot be asked for a concept"
            )
        pairs = self.contexts.distinct
        plus = 1 if self.query.swap else 0
        require_read(denoiser, self.query.concept, [pair[plus] for pair in pairs])
        base = [] if self.query.base is None else [self.query.base]
        return lost_words(denoiser, [*base, *(prompt for pair in pairs for prompt in pair)])

    def probes(self, extractor: Extractor) -> int:
        """One at each timestep; of a contrast one under c+ and one under c-."""
        return len(extractor.timesteps) * CONCEPT_DELTAS[self.delta][1]

    def objectives(self, extractor: Extractor, draws: Sequence[int]) -> Iterator[Objective]:
        """Trajectories under c+ (or the base prompt), asked what c+ and c- differ in there."""
        denoiser = extractor.denoiser
        plus, minus = (
            encode_prompts(denoiser, [self.contexts.pairs[draw][side] for draw in draws])
            for side in (0, 1)
        )
        base = self.query.base
        below = None if base is None else encode_prompts(denoiser, [base] * len(draws))
        noise = trajectory_noise(denoiser, self.query.seed, draws)
        ask, _ = CONCEPT_DELTAS[self.delta]
        yield from ask(denoiser, noise, plus, minus, below, extractor.timesteps)
