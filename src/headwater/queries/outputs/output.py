"""Which training images would change what the model puts out?

Two outputs of the model on pictures z of a concept: the loss at a caption that names it, and the
contribution of its words to that,

    loss(z; c+) = E ||out(xt, t, c+) - target||^2        contribution = loss(z; c-) - loss(z; c+)

A row of features is the gradient of the loss, or of minus the contribution, and a proponent is an
image without which the loss would be higher, or the contribution lower. Asked by a method with a
curvature that is an estimate of what a model trained without the image would put out (Koh & Liang
2017), which the slider of `Concept` is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from headwater.data.sources import load_dataset
from headwater.data.training_set import TrainingSet
from headwater.errors import DatasetError, MethodError, QueryError
from headwater.features.batch import Batch
from headwater.features.extractor import Extractor
from headwater.features.objectives import Objective, contribution_objectives, image_objectives
from headwater.features.spec import DRAWS, MOST_DRAWS, ProbeSpec, Side
from headwater.models.denoiser import Denoiser
from headwater.queries.concept import Concept
from headwater.queries.contexts import choose_contexts
from headwater.queries.draws import encode_prompts
from headwater.queries.outputs.pictures import FEWEST, RECIPE, Made, Shown, given, trained
from headwater.queries.query import Description, Question, Setting
from headwater.queries.words.token_limit import lost_words, require_read

# Pictures by name; any other is a folder or a file.
PICTURES = ("auto", "training", "made")


@dataclass(frozen=True)
class Output(Question):
    """What the two questions about outputs have in common.

    Args:
        prompt: the prompt that the user has in mind.
        concept: words of the prompt.
        anchor: of a contribution, words that stand in the concept's place in c-, as of `Concept`.
        pictures: that show the concept. "training": training images of which a caption names it,
            each left out of its own score; "made": the model makes one for each draw; "auto": the
            first, where at least 3 name it, two or more draws are scored one by one and nothing is
            said of how pictures are made, else the second. Or, which is best, pictures that the
            model was not trained on: a `TrainingSet`, or a folder or file of such. A picture's own
            caption is used where it names the concept, else the prompt.
        context: of made pictures, what they are made under: as of `Concept`. Any but "auto" says
            how pictures are made.
        draws: of noise, each on five of the pictures that share its timesteps, or on one that is
            made; None for as many as a stable top ten needs.
        seed: of noise, and of the choice of pictures and contexts.
        guidance: of made pictures. Any but 5 says how they are made.
        alternatives: other values that presence tells the concept from, as of `Concept`.

    Raises:
        QueryError: the words are no text or not in the prompt, a loss is given an anchor, or it is
            said how pictures are made, and others are asked for.
    """

    prompt: str
    concept: str
    anchor: str = ""
    pictures: TrainingSet | str | Path = "auto"
    context: str = "auto"
    draws: int | None = DRAWS
    seed: int = 0
    guidance: float = 5.0
    alternatives: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self.slider  # noqa: B018 - it refuses what cannot be asked
        if self._of_made and self.pictures not in ("auto", "made"):
            raise QueryError(f"{self._of_made} does not go with --pictures: leave it out")

    @property
    def _of_made(self) -> str:
        """What is said of how pictures are made, which others would ignore; "" for nothing."""
        if self.context != Output.context:
            return "--context"
        return "--guidance" if self.guidance != Output.guidance else ""

    @property
    def slider(self) -> Concept:
        """The same words asked for as `Concept` does, by which prompts and contexts are made."""
        return Concept(
            self.prompt,
            self.concept,
            anchor=self.anchor,
            context=self.context,
            draws=self.draws,
            seed=self.seed,
            alternatives=self.alternatives,
        )

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.concept

    def facts(self) -> Mapping[str, Any]:
        """Its own entries of the JSON answer."""
        return {"title": self.title, "concept": self.concept, "prompt": self.prompt}

    def likeness(self) -> str:
        """Training images can be like the words."""
        return self.concept

    def contents(self) -> list[Any]:
        """What its pictures are and how draws have them, as JSON; files by what they hold."""
        pictures = self.pictures if self._given is None else self._given.fingerprint
        return [pictures, *RECIPE]

    @cached_property
    def _given(self) -> TrainingSet | None:
        pictures = self.pictures
        if pictures in PICTURES:
            return None
        if not isinstance(pictures, (str, Path)):
            return pictures
        try:
            return load_dataset(pictures)
        except DatasetError as error:
            why = str(error).partition(":")[0]  # what follows is advice for training images
            raise QueryError(
                f"--pictures {str(pictures)!r} cannot be read ({why}): give training, made, a "
                "folder of pictures, or a file of them such as `headwater index` takes"
            ) from None

    def shown(self, setting: Setting) -> Shown:
        """The pictures.

        Raises:
            QueryError, MethodError: they are to be training images, and cannot.
        """
        draws, timesteps = self.draws or MOST_DRAWS, len(setting.timesteps)
        if self._given is not None:
            return given(self._given, self.slider, draws, timesteps)
        by_default = self.pictures == "auto" and not self._of_made and draws > 1
        if self.pictures == "training" and draws == 1:
            raise QueryError("--draws 1 on --pictures training scores no image of it: take more")
        if (by_default or self.pictures == "training") and setting.images is not None:
            found = trained(setting.images, self.slider, draws, timesteps)
            if found is not None:
                return found
        if self.pictures == "training":
            self._refuse_training_images(setting)
        contexts = choose_contexts(self.slider, setting.captions)
        return Made(contexts.pairs, self.seed, self.guidance)

    def _refuse_training_images(self, setting: Setting) -> NoReturn:
        if setting.images is None:
            raise MethodError(
                f"{setting.method} scores all draws at once, so that no image can be left out of "
                "its own score: leave out --pictures training, or give pictures"
            )
        raise QueryError(
            f"fewer than {FEWEST} training images name {self.concept!r}, too few to ask on: leave "
            "out --pictures training, or give pictures"
        )

    def drawer(self, setting: Setting) -> OutputDrawer:
        """The question, ready to be asked.

        Raises:
            QueryError: the file of contexts, or the pictures, cannot be read.
            QueryError, MethodError: they are to be training images, and cannot.
        """
        return OutputDrawer(self, self.shown(setting))


@dataclass(frozen=True)
class Contribution(Output):
    """Which training images taught the model what a concept's words gain?

    >>> Contribution("a red star", "star").kind
    'contribution'
    """

    kind = "contribution"


@dataclass(frozen=True)
class Loss(Output):
    """Which training images lower the model's loss on pictures of a concept?

    >>> Loss("a red star", "star").kind
    'loss'
    """

    kind = "loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.anchor:
            raise QueryError("--anchor does not go with --ask loss, which has no c-: leave it out")


# By what they are asked for.
OUTPUTS: Mapping[str, type[Output]] = {each.kind: each for each in (Contribution, Loss)}


def asked_as(ask: str) -> type[Concept] | type[Output]:
    """What a question about words is: an output by its name, else ("slider") their direction.

    >>> asked_as("slider").__name__, asked_as("loss").__name__
    ('Concept', 'Loss')
    """
    return OUTPUTS.get(ask, Concept)


def question_of(
    ask: str,
    prompt: str,
    words: str,
    *,
    of_slider: Mapping[str, Any] | None = None,
    of_output: Mapping[str, Any] | None = None,
    **same: Any,
) -> Concept | Output:
    """What is asked of words, as `asked_as` tells it.

    Args:
        of_slider: what a direction alone takes, such as minus.
        of_output: what an output alone takes, such as the guidance of pictures that are made.
        same: what either takes, such as draws and seed.

    >>> question_of("slider", "a red star", "star", of_output={"guidance": 2.0}, seed=1).kind
    'concept'
    """
    made = asked_as(ask)
    own = of_slider if made is Concept else of_output
    return made(prompt, words, **same, **(own or {}))


@dataclass(frozen=True)
class OutputDrawer:
    """An output on some pictures a draw, noised at every timestep of the index, one at each."""

    query: Output
    shown: Shown
    limit: int | None = None
    once: str = ""

    @property
    def training_rows(self) -> Sequence[Collection[int]]:
        """The training images of each draw, where it is on such."""
        rows, a_draw = self.shown.training_rows, self.shown.a_draw
        return [set().union(*rows[i : i + a_draw]) for i in range(0, len(rows), a_draw)]

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.query.title

    def describe(self, draws: int) -> Description:
        """On which pictures."""
        what = {"loss": "by the loss", "contribution": "by what its words gain"}[self.query.kind]
        pictures = self.shown.words(draws * self.shown.a_draw)
        facts = {"output": self.query.kind, "pictures": pictures}
        if self.query.anchor:
            what += f" over {self.query.anchor!r}"
            facts["anchor"] = self.query.anchor
        return Description(f"{what} on {pictures}", facts)

    def key(self, draws: range) -> Mapping[str, Any]:
        """The pictures and prompts of these draws."""
        a_draw = self.shown.a_draw
        numbers = range(draws.start * a_draw, draws.stop * a_draw)
        pictures, pairs = map(self.shown.key, numbers), self.shown.pairs(numbers)
        facts = {"pictures": list(pictures), "pairs": pairs, "seed": self.query.seed}
        # a draw of one picture was all there was: its key is as it was
        shared = {} if a_draw == 1 else {"pictures of a draw": a_draw}
        return {"type": self.query.kind, **facts, **shared}

    def check(self, denoiser: Denoiser) -> Sequence[str]:
        """Refuse a model that reads no prompts, and a concept that it does not get to read.

        Raises:
            MethodError, QueryError: so it is.
        """
        if not denoiser.conditional:
            raise MethodError(
                f"{denoiser.source} reads no prompts, so it cannot be asked for a concept"
            )
        count = (self.query.draws or MOST_DRAWS) * self.shown.a_draw
        pairs = dict.fromkeys(self.shown.pairs(range(count)))
        require_read(denoiser, self.query.concept, [plus for plus, _ in pairs])
        return lost_words(denoiser, [prompt for pair in pairs for prompt in pair])

    def probes(self, extractor: Extractor) -> int:
        """One at each timestep; of a contribution one under c+ and one under c-."""
        return len(extractor.timesteps) * (2 if self.query.kind == "contribution" else 1)

    def objectives(self, extractor: Extractor, draws: Sequence[int]) -> Iterator[Objective]:
        """The output's gradient at noised pictures, each at its share of the timesteps."""
        denoiser, a_draw = extractor.denoiser, self.shown.a_draw
        ids = [f"output|{self.query.seed}|{draw}" for draw in draws]
        for part in range(a_draw):
            numbers = [draw * a_draw + part for draw in draws]
            plus, minus = zip(*self.shown.pairs(numbers), strict=True)
            prompts = encode_prompts(denoiser, plus)
            batch = Batch(self.shown.latents(denoiser, numbers), prompts, ids)
            spec = ProbeSpec(extractor.timesteps[part::a_draw], extractor.seed)
            if self.query.kind == "contribution":
                without = encode_prompts(denoiser, minus)
                yield from contribution_objectives(denoiser, batch, without, spec)
            else:
                yield from image_objectives(denoiser, Side("noising", "dsm"), batch, spec)
