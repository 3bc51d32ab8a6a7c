"""Local concepts: which training images taught the model a concept as one picture shows it?

A concept query whose words give way to a token learned from the picture (Concept-TRAK C.1, F.1;
`textual_inversion.py`): delta = -(eps(c+) - eps(c-)) along trajectories under c+, where c+ is a
context with the token in the words' place and c- the same context without them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headwater.errors import MethodError, QueryError
from headwater.features.extractor import Extractor
from headwater.features.objectives import Asked, about_concept
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.models.textual_inversion import (
    BATCH,
    LEARNING_RATE,
    STEPS,
    Token,
    encode,
    learn_token,
    new_name,
)
from headwater.queries.concept import Concept, Contexts, contexts
from headwater.queries.draws import trajectory_noise
from headwater.queries.image import digests, latent_mask, opened
from headwater.queries.prompts import contains, without, word_pattern
from headwater.storage.files import keep, read_tensors

if TYPE_CHECKING:
    from headwater.index.index import Index

# Stands in a prompt for all that a picture shows.
WHOLE = "<picture>"


@dataclass(frozen=True)
class Local:
    """Which training images taught the model this concept as the picture shows it?

    Args:
        concept: its words in a prompt of the picture, and the contexts to ask in. What else the
            prompt names, the token need not learn. See `whole_picture` for no words.
        file: the picture.
        mask: a picture of the same size, white where the concept is.
        steps: of textual inversion.
        captions: of the training images, where contexts come from; an index fills them in.
        kept: folder that keeps learned tokens; likewise.
    """

    concept: Concept
    file: str | Path
    mask: str | Path | None = None
    steps: int = STEPS
    captions: tuple[str, ...] = field(default=(), repr=False)
    kept: Path | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise QueryError(f"steps={self.steps} of textual inversion must be at least 1")

    @property
    def kind(self) -> str:
        """Which of the kinds of question it is."""
        return "local"

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        this = f"this {self.concept.concept.strip('<>')}"
        return f"the lack of {this}" if self.concept.swap else this

    @property
    def prompt(self) -> str:
        """The prompt that the user has in mind."""
        return without(self.concept.prompt, WHOLE) if self.whole else self.concept.prompt

    @property
    def seed(self) -> int:
        """Of the token's learning and of the draws."""
        return self.concept.seed

    @property
    def draws(self) -> int | None:
        """Trajectories."""
        return self.concept.draws

    @property
    def whole(self) -> bool:
        """Whether all that the picture shows is the concept."""
        return self.concept.concept == WHOLE

    @property
    def description(self) -> str:
        """How it is asked, to go on from "asked"."""
        where = self._contexts().description
        return f"for a token learned from {Path(self.file).name} in its words' place, {where}"

    def details(self) -> Mapping[str, Any]:
        """The same for provenance."""
        chosen = self._contexts()
        return {
            **digests(self.file, self.mask),
            "learned": {"prompt": self.concept.prompt, "steps": self.steps, "batch": BATCH},
            "base": self.concept.base or "c+",
            "swap": self.concept.swap,
            "context": chosen.kind,
            "contexts": [list(pair) for pair in dict.fromkeys(chosen.pairs)],
        }

    def of(self, draws: int) -> Local:
        """The same question with so many draws."""
        return replace(self, concept=replace(self.concept, draws=draws))

    def at(self, index: Index) -> Local:
        """The same with this index's captions and its folder for tokens."""
        captions = tuple(sample.caption for sample in index.samples)
        return replace(self, captions=captions, kept=index.path / "queries")

    def picture(self, denoiser: Denoiser) -> Picture:
        """The picture, encoded.

        Raises:
            QueryError: it is missing or no picture.
        """
        return opened(denoiser, self.file)

    def drawer(self, denoiser: Denoiser) -> LocalDrawer:
        """The question, ready to be asked; picture and mask have been read by then.

        Raises:
            MethodError: the model reads no prompts.
            QueryError: a picture or mask that cannot be, a context without the words.
        """
        if not denoiser.conditional:
            raise MethodError(
                f"{denoiser.source} reads no prompts, so no word of them can stand for a picture"
            )
        lesson = self.lesson(denoiser)
        pairs = self._contexts().pairs
        plus = 1 if self.concept.swap else 0
        for pair in dict.fromkeys(pairs):
            if not contains(pair[plus], self.concept.concept):
                raise QueryError(
                    f"the context {pair[plus]!r} does not hold {self.concept.concept!r}, so the "
                    "learned token has no place in it: leave it out of --context"
                )
        denoiser.warn_of_lost_words([self.concept.prompt, *(text for p in pairs for text in p)])
        return LocalDrawer(self.title, lesson, pairs, self.concept.base, self.seed)

    def lesson(self, denoiser: Denoiser) -> Lesson:
        """What the token is learned from.

        Raises:
            QueryError: a picture or mask that cannot be.
        """
        shown = self.picture(denoiser)
        mask = latent_mask(denoiser, self.mask, shown.image) if self.mask else None
        concept = self.concept
        words, prompt = concept.concept, concept.prompt
        return Lesson(shown.x0, mask, words, prompt, self.steps, self.seed, self.kept)

    def token(self, denoiser: Denoiser) -> Token:
        """The learned token; learned before if it is kept."""
        return self.lesson(denoiser).token(denoiser)

    def _contexts(self) -> Contexts:
        return contexts(self.concept, self.captions)


def whole_picture(prompt: str, file: str | Path, **options: Any) -> Local:
    """Everything that the picture shows besides what the prompt ("" for none) names.

    `options` are those of Local, and draws and seed of Concept.
    """
    given = {name: options.pop(name) for name in ("draws", "seed") if name in options}
    concept = Concept(f"{prompt} {WHOLE}".strip(), WHOLE, context="prompt", **given)
    return Local(concept, file, **options)


@dataclass(frozen=True)
class Lesson:
    """All that a learned token depends on besides the model."""

    x0: Float[Tensor, "1 c h w"]
    mask: Float[Tensor, "1 1 h w"] | None
    words: str
    prompt: str
    steps: int
    seed: int
    kept: Path | None

    def key(self) -> str:
        """sha256 over it."""
        settings = (self.words, self.prompt, self.steps, self.seed, LEARNING_RATE, BATCH)
        digest = hashlib.sha256(f"textual inversion|{settings}".encode())
        for tensor in (self.x0, self.mask):
            if tensor is not None:
                digest.update(f"{tuple(tensor.shape)}".encode())
                digest.update(tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def token(self, denoiser: Denoiser) -> Token:
        """Learn it, or read what was learned before of the same picture by the same model."""
        name = new_name(denoiser, self.words)
        identity = f"{denoiser.fingerprint()}|{denoiser.dtype}|{name}|{self.key()}"
        file = f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.safetensors"
        kept = None if self.kept is None else read_tensors(self.kept / file)
        if kept is not None:
            return Token(name, kept["embedding"].to(denoiser.device))
        token = Token(name, self._learned(denoiser, name))
        if self.kept is not None:
            keep(self.kept / file, {"embedding": token.embedding.cpu()}, {"title": name})
        return token

    def _learned(self, denoiser: Denoiser, name: str) -> Float[Tensor, " e"]:
        prompt = replaced(self.prompt, self.words, name)
        words = "" if self.words == WHOLE else self.words
        with tqdm(total=self.steps, desc=f"learning {name}", delay=2, leave=False) as bar:
            return learn_token(
                denoiser,
                self.x0,
                name,
                [prompt],
                words,
                steps=self.steps,
                seed=self.seed,
                mask=self.mask,
                tick=lambda loss: bar.update(),
            )


@dataclass(frozen=True)
class LocalDrawer:
    """The concept slider with a learned token, one trajectory a draw.

    The token is learned when rows are first computed, once for each model, and remembered in
    `tokens`.
    """

    title: str
    lesson: Lesson
    pairs: tuple[tuple[str, str], ...]
    base: str | None
    seed: int
    limit: int | None = None
    tokens: dict[str, Token] = field(default_factory=dict, compare=False, repr=False)

    def key(self, draws: range) -> Mapping[str, Any]:
        """The contexts of these draws, and what the token is learned from."""
        pairs = [self.pairs[draw] for draw in draws]
        lesson = self.lesson.key()
        return {
            "type": "local",
            "lesson": lesson,
            "pairs": pairs,
            "base": self.base,
            "seed": self.seed,
        }

    def probes(self, machine: Extractor) -> int:
        """One at each timestep."""
        return len(machine.timesteps)

    def asked(self, machine: Extractor, draws: Sequence[int]) -> Iterator[Asked]:
        """Trajectories under c+ (or the base prompt), asked for eps(c+) - eps(c-)."""
        denoiser = machine.denoiser
        token = self.token(denoiser)
        plus, minus = (
            encode(denoiser, token, [self._spoken(self.pairs[draw][side], token) for draw in draws])
            for side in (0, 1)
        )
        base = None if self.base is None else encode(denoiser, token, [self.base] * len(draws))
        noise = trajectory_noise(denoiser, self.seed, draws)
        yield from about_concept(denoiser, noise, plus, minus, base, machine.timesteps)

    def token(self, denoiser: Denoiser) -> Token:
        """Of this model."""
        model = denoiser.fingerprint()
        if model not in self.tokens:
            self.tokens[model] = self.lesson.token(denoiser)
        return self.tokens[model]

    def _spoken(self, text: str, token: Token) -> str:
        return replaced(text, self.lesson.words, token.name)


def replaced(text: str, words: str, by: str) -> str:
    """`text` with every occurrence of `words` replaced."""
    return word_pattern(words).sub(lambda match: by, text)
