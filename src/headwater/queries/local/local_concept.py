"""Local concepts: which training images taught the model a concept as one picture shows it?

A concept query whose words give way to a token learned from the picture (Concept-TRAK C.1, F.1;
`models/textual_inversion.py`): delta = -(eps(c+) - eps(c-)) along trajectories under c+, where c+
is a context with the token in the words' place and c- the same context without them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.errors import MethodError, QueryError
from headwater.features.extractor import Extractor
from headwater.features.objectives import Objective, concept_objectives
from headwater.features.spec import DRAWS, MOST_DRAWS
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.models.textual_inversion import BATCH, STEPS, Token, encode
from headwater.queries.concept import Concept
from headwater.queries.contexts import Contexts, choose_contexts
from headwater.queries.draws import trajectory_noise
from headwater.queries.image import Image
from headwater.queries.local.lesson import Lesson, with_token
from headwater.queries.pictures.files import file_contents, file_facts
from headwater.queries.query import Description, Name, Pictured, Question, Setting, require_draws
from headwater.queries.words.prompts import contains
from headwater.queries.words.token_limit import lost_words


@dataclass(frozen=True)
class WholePicture:
    """All that a picture shows besides what its prompt ("" for none) names.

    Stands in a `Local` where a concept has no words: the token is added to the prompt.

    Raises:
        QueryError: less than one draw.
    """

    prompt: str = ""
    draws: int | None = DRAWS
    seed: int = 0

    concept = None
    title = "picture"
    base = None
    swap = False

    def __post_init__(self) -> None:
        require_draws(self.draws)


@dataclass(frozen=True)
class Local(Question):
    """Which training images taught the model this concept as the picture shows it?

    Args:
        subject: a concept: its words in a prompt of the picture, and the contexts to ask in. What
            else the prompt names, the token need not learn. Or a `WholePicture`.
        file: the picture.
        mask: a picture of the same size, white where the concept is.
        steps: of textual inversion.

    Raises:
        QueryError: less than one step.

    >>> Local(Concept("a red star", "star"), "photo.png").title
    'this star'
    """

    subject: Concept | WholePicture
    file: str | Path
    mask: str | Path | None = None
    steps: int = STEPS

    kind = "local"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise QueryError(f"steps={self.steps} of textual inversion must be at least 1")

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        this = f"this {self.subject.concept or self.subject.title}"
        return f"the lack of {this}" if self.subject.swap else this

    @property
    def prompt(self) -> str:
        """The prompt that the user has in mind."""
        return self.subject.prompt

    @property
    def seed(self) -> int:
        """Of the token's learning and of the draws."""
        return self.subject.seed

    @property
    def draws(self) -> int | None:
        """Trajectories."""
        return self.subject.draws

    def name(self) -> Name:
        """What was asked for, as it stands in a sentence."""
        return Name(self.title, quoted=False)

    def contents(self) -> list[str]:
        """sha256 of the files that it is about, wherever they lie."""
        return file_contents(self.file, self.mask)

    def picture_facts(self) -> Mapping[str, Any]:
        """The file, by its contents."""
        return self._file.picture_facts()

    def picture(self, denoiser: Denoiser) -> Picture:
        """The picture, encoded.

        Raises:
            QueryError: it is missing or no picture.
        """
        return self._file.picture(denoiser)

    def likeness(self) -> str | Pictured:
        """Training images can be like the picture."""
        return self._file

    @property
    def _file(self) -> Image:
        return Image(file=self.file)

    def drawer(self, setting: Setting) -> LocalDrawer:
        """The question, ready to be asked; picture and mask have been read by then.

        Raises:
            QueryError: a picture that cannot be, a context without the words.
        """
        lesson = Lesson(
            setting.picture(self._file),
            self.mask,
            self.subject.concept,
            self.prompt,
            self.steps,
            self.seed,
        )
        return LocalDrawer(self, lesson, self._contexts(setting.captions), setting.cache)

    def _contexts(self, captions: Iterable[str]) -> Contexts:
        subject = self.subject
        if isinstance(subject, WholePicture):
            pairs = ((subject.prompt, subject.prompt),) * (subject.draws or MOST_DRAWS)
            return Contexts("prompt", pairs, "in this one prompt")
        contexts, plus = choose_contexts(subject, captions), 1 if subject.swap else 0
        for pair in contexts.distinct:
            if not contains(pair[plus], subject.concept):
                raise QueryError(
                    f"the context {pair[plus]!r} does not hold {subject.concept!r}, so the "
                    "learned token has no place in it: leave it out of --context"
                )
        return contexts


def whole_picture(prompt: str, file: str | Path, **options: Any) -> Local:
    """Everything that the picture shows besides what the prompt ("" for none) names.

    `options` are those of Local, and draws and seed of `WholePicture`.

    Example:
        question = whole_picture("a lighthouse", "photo.png", draws=8)
    """
    own = {name: options.pop(name) for name in ("draws", "seed") if name in options}
    return Local(WholePicture(prompt, **own), file, **options)


@dataclass(frozen=True)
class LocalDrawer:
    """The concept slider with a learned token, one trajectory a draw.

    The token is learned when rows are first computed, once for each model, and remembered in
    `tokens`.
    """

    query: Local
    lesson: Lesson
    contexts: Contexts
    cache: Path
    limit: int | None = None
    once: str = ""
    training_rows: Sequence[Collection[int]] = ()
    tokens: dict[str, Token] = field(default_factory=dict, compare=False, repr=False)

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.query.title

    def describe(self, draws: int) -> Description:
        """That a token was learned, and in which contexts it stood."""
        query, contexts = self.query, self.contexts.first(draws)
        learned = {"prompt": query.prompt, "steps": query.steps, "batch": BATCH}
        facts = {
            **file_facts(query.file, query.mask),
            "learned": learned | {"words": query.subject.concept},
            "base": query.subject.base or "c+",
            "swap": query.subject.swap,
            "context": contexts.kind,
            "contexts": [list(pair) for pair in contexts.distinct],
        }
        place = "added to the prompt" if query.subject.concept is None else "in its words' place"
        words = f"for a token learned from {Path(query.file).name} {place}, {contexts.words}"
        return Description(words, facts)

    def key(self, draws: range) -> Mapping[str, Any]:
        """The contexts of these draws, and what the token is learned from."""
        return {
            "type": "local",
            "lesson": self.lesson.facts(),
            "pairs": [self.contexts.pairs[draw] for draw in draws],
            "base": self.query.subject.base,
            "swap": self.query.subject.swap,
            "seed": self.query.seed,
        }

    def check(self, denoiser: Denoiser) -> Sequence[str]:
        """Refuse a model that reads no prompts, and a mask that cannot be.

        Raises:
            MethodError, QueryError: so it is.
        """
        if not denoiser.conditional:
            raise MethodError(
                f"{denoiser.source} reads no prompts, so no word of them can stand for a picture"
            )
        self.lesson.check(denoiser)
        pairs = self.contexts.distinct
        return lost_words(denoiser, [self.query.prompt, *(text for p in pairs for text in p)])

    def probes(self, extractor: Extractor) -> int:
        """One at each timestep."""
        return len(extractor.timesteps)

    def objectives(self, extractor: Extractor, draws: Sequence[int]) -> Iterator[Objective]:
        """Trajectories under c+ (or the base prompt), asked for eps(c+) - eps(c-)."""
        denoiser, subject = extractor.denoiser, self.query.subject
        token = self.token(denoiser)
        plus, minus = (
            encode(denoiser, token, [self._text(draw, side, token) for draw in draws])
            for side in (0, 1)
        )
        base = subject.base
        below = None if base is None else encode(denoiser, token, [base] * len(draws))
        noise = trajectory_noise(denoiser, self.query.seed, draws)
        yield from concept_objectives(denoiser, noise, plus, minus, below, extractor.timesteps)

    def token(self, denoiser: Denoiser) -> Token:
        """The learned token of this model; learned before if it is kept."""
        model = denoiser.fingerprint()
        if model not in self.tokens:
            self.tokens[model] = self.lesson.token(denoiser, self.cache)
        return self.tokens[model]

    def _text(self, draw: int, side: int, token: Token) -> str:
        text, words = self.contexts.pairs[draw][side], self.lesson.words
        return with_token(text, words, token.name) if words or side == 0 else text
