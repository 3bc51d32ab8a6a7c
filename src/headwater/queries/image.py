"""Questions about a picture: one that the model makes from a prompt and a seed, or a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headwater.data.images import on_black, read_image
from headwater.errors import MethodError, QueryError
from headwater.features.batch import Batch
from headwater.features.extractor import Extractor
from headwater.features.objectives import Objective, image_objectives, prompt_objectives
from headwater.features.spec import DRAWS, ProbeSpec, Side
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture, draw, seeded_noise
from headwater.queries.draws import encode_prompts
from headwater.queries.feature import Feature
from headwater.queries.pictures.files import (
    file_contents,
    file_digest,
    file_facts,
    latent_mask,
    open_picture,
)
from headwater.queries.query import (
    Description,
    Figure,
    Name,
    Pictured,
    Question,
    Setting,
    require_draws,
)
from headwater.queries.words.token_limit import lost_words


@dataclass(frozen=True)
class Image(Question):
    """Which training images taught the model this picture, or a part or a step of it?

    Args:
        prompt: what the picture is made from; of a file, what it is a picture of.
        file: a picture to ask about, instead of one made from the prompt and the seed.
        mask: a picture of the same size, white where it counts, black where not.
        step: a timestep of the trajectory that makes the picture; scores are then of that step.
        draws: of noise; None takes as many as a stable top ten needs.
        seed: of the picture and of the draws.
        guidance: classifier-free guidance scale of the picture.
        steps: of DDIM, in making the picture.

    Raises:
        QueryError: less than one draw, or a step of a file.

    >>> Image("a lighthouse", seed=3, step=499).title
    'the picture at step 499'
    """

    prompt: str = ""
    file: str | Path | None = None
    mask: str | Path | None = None
    step: int | None = None
    draws: int | None = DRAWS
    seed: int = 0
    guidance: float = 5.0
    steps: int = 50

    def __post_init__(self) -> None:
        require_draws(self.draws)
        if self.step is not None and self.file is not None:
            raise QueryError(
                "--step is of the making of a picture, and a file was made elsewhere: give "
                "--prompt and --seed instead of the file"
            )

    @property
    def kind(self) -> str:
        """Which of the kinds of question it is."""
        if self.step is not None:
            return "step"
        return "image" if self.mask is None else "patch"

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        what = "the picture" if self.mask is None else "the part inside the mask"
        return what if self.step is None else f"{what} at step {self.step}"

    def name(self) -> Name:
        """What was asked for, as it stands in a sentence."""
        what = "the picture" if self.mask is None else "the outlined part of the picture"
        return Name(what if self.step is None else f"{what} at step {self.step}", quoted=False)

    def details(self) -> dict[str, Any]:
        """What is asked about, for provenance."""
        made = {"picture": self.prompt, "guidance": self.guidance, "steps": self.steps}
        return {
            **(made if self.file is None else {}),
            **file_facts(self.file, self.mask),
            "prompt": self.prompt,
            "step": self.step,
        }

    def contents(self) -> list[str]:
        """sha256 of the files that it is about, wherever they lie."""
        return file_contents(self.file, self.mask)

    # --- its picture ------------------------------------------------------------------------

    def picture_facts(self) -> Mapping[str, Any]:
        """All that the picture depends on besides the model; a file by its contents."""
        if self.file is not None:
            return {"sha256": file_digest(self.file)}
        names = ("prompt", "seed", "guidance", "steps")
        return {name: getattr(self, name) for name in names}

    def picture(self, denoiser: Denoiser, between: Callable[[], object] = lambda: None) -> Picture:
        """The picture that is asked about.

        Args:
            between: called after each step of its making.

        Raises:
            QueryError: neither file nor prompt, or an unreadable file.
        """
        if self.file is not None:
            return open_picture(denoiser, self.file)
        if denoiser.conditional and not self.prompt:
            raise QueryError("give a picture: a file, or --prompt and --seed to make one")
        return draw(denoiser, self.prompt, self.seed, self.guidance, self.steps, between)

    def likeness(self) -> str | Pictured:
        """Training images can be like the picture."""
        return self

    def figures(
        self, picture: Picture, denoiser: Callable[[], Denoiser], side: Side | None
    ) -> list[Figure]:
        """The picture; of a step, also what the model aimed at there.

        Of a method that noises the finished picture, that, as noisy as there.
        """
        mask = None if self.mask is None else read_image(self.mask, on_black).convert("L")
        if self.step is None:
            caption = "" if mask is None else "The part that was asked about"
            return [Figure(caption, picture.image, mask)]
        model = denoiser()
        if side is not None and side.path == "noising":
            noise = seeded_noise(model.latent_shape, self.seed, "shown")[None].to(model.device)
            x0 = picture.x0.to(model.device)
            image = model.decode(model.schedule.noised(x0, noise.to(x0), self.step))[0]
            caption = f"The finished picture, noised as at step {self.step}"
        else:
            image = model.decode(picture.x0hats[self.step].to(model.device))[0]
            caption = f"What the model aimed at, at step {self.step}"
        return [Figure(caption, image, mask), Figure("The finished picture", picture.image)]

    # --- asked by gradients -----------------------------------------------------------------

    def drawer(self, setting: Setting) -> PictureDrawer:
        """The question, ready to be asked.

        Raises:
            MethodError: the method follows the making of a picture, and this is a file.
            QueryError: the picture's making has no such step, or a file cannot be read.
        """
        picture = setting.picture(self)
        if self.step is not None:
            require_step(picture, self.step)
        return PictureDrawer(self, setting.side, _targets(self, picture, setting), picture)


def _targets(query: Image, picture: Picture, setting: Setting) -> tuple[Target, ...]:
    """(x0, timesteps) of the probes.

    Of the picture, the index's timesteps, or the one step; of a method that re-noises, what the
    picture's making aimed at, at each of the steps it passed, or at the one.
    """
    steps = setting.timesteps if query.step is None else (query.step,)
    if setting.side.path != "renoised":
        return ((picture.x0, steps),)
    if not picture.x0hats:
        raise MethodError(
            f"{setting.method} follows the making of a picture, and a file was made elsewhere: "
            "give --prompt and --seed, or another method, for instance trak on the same index"
        )
    passed = [min(picture.x0hats, key=lambda t: abs(t - step)) for step in steps]
    return tuple((picture.x0hats[t], (t,)) for t in dict.fromkeys(passed))


Target = tuple[Float[Tensor, "1 c *f h w"], tuple[int, ...]]


@dataclass(frozen=True)
class PictureDrawer:
    """A method's own question about a picture, or about clean latents that its making aimed at.

    `targets` are (x0, timesteps): the picture at the index's timesteps, or x0hat of each step at
    that step alone.
    """

    query: Image
    side: Side
    targets: tuple[Target, ...]
    picture: Picture
    training_rows: Sequence[Collection[int]] = ()

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.query.title

    @property
    def limit(self) -> int | None:
        """An inversion draws no noise."""
        return 1 if self.side.path == "inversion" else None

    @property
    def once(self) -> str:
        """Why there is one draw."""
        return "an inversion draws no noise" if self.limit == 1 else ""

    def describe(self, draws: int) -> Description:
        """A step is of the picture's making only where it is re-noised from what that aimed at."""
        return Description(self._words(), self.query.details())

    def _words(self) -> str:
        if self.side.delta == "concept":
            return f"of {self.query.title}, as its prompt makes it"
        if self.query.step is None or self.side.path == "renoised":
            return f"of {self.query.title}"
        finished = replace(self.query, step=None).title
        return f"of {finished}, finished and noised as at step {self.query.step}"

    def key(self, draws: range) -> Mapping[str, Any]:
        """The picture goes by its digest, the mask by its file's."""
        return {
            "type": "part" if self.side.delta == "concept" else "picture",
            "side": [self.side.path, self.side.delta],
            "picture": self.picture.digest(),
            "timesteps": [timesteps for _, timesteps in self.targets],
            "prompt": self.query.prompt,
            "seed": self.query.seed,
            "mask": None if self.query.mask is None else file_digest(self.query.mask),
        }

    def check(self, denoiser: Denoiser) -> Sequence[str]:
        """Refuse a mask that cannot be; say which words of the prompt the model did not read."""
        self._mask(denoiser)
        return lost_words(denoiser, [self.query.prompt])

    def probes(self, extractor: Extractor) -> int:
        """One at each timestep of each target."""
        return sum(len(timesteps) for _, timesteps in self.targets)

    def objectives(self, extractor: Extractor, draws: Sequence[int]) -> Iterator[Objective]:
        """The side's delta at its probes of each target."""
        denoiser, count = extractor.denoiser, len(draws)
        mask = self._mask(denoiser)
        condition = denoiser.encode_captions([self.query.prompt] * count)
        ids = [f"query|{self.query.seed}|{draw}" for draw in draws]
        of_prompt = self.side.delta == "concept"
        empty = encode_prompts(denoiser, [""] * count) if of_prompt else None
        for x0, timesteps in self.targets:
            x0 = x0.to(denoiser.device, denoiser.latent_dtype).expand(count, *x0.shape[1:])
            batch = Batch(x0, condition, ids)
            spec = ProbeSpec(timesteps, extractor.seed, 1, self.side.guidance)
            if empty is not None:
                yield from prompt_objectives(denoiser, batch, empty, spec, mask)
            else:
                yield from image_objectives(denoiser, self.side, batch, spec, mask)

    def _mask(self, denoiser: Denoiser) -> Float[Tensor, "1 1 h w"] | None:
        mask = self.query.mask
        return None if mask is None else latent_mask(denoiser, mask, self.picture.image.size)


def shown(query: Question, guidance: float) -> Pictured | None:
    """What stands for a question in an answer: its own picture, or one that the model makes.

    None where the model is not asked.
    """
    if isinstance(query, Feature):
        return None
    if isinstance(query, Pictured):
        return query
    return Image(query.prompt, seed=query.seed, guidance=guidance)


def require_step(picture: Picture, step: int) -> None:
    """Refuse a timestep that the making of a picture did not pass.

    Raises:
        QueryError: names the nearest one.
    """
    passed = sorted(picture.x0hats)
    if step not in passed:
        nearest = min(passed, key=lambda t: abs(t - step))
        raise QueryError(
            f"--step {step} is not a step of the trajectory, which goes from {passed[-1]} to "
            f"{passed[0]} in {picture.steps}: the nearest is {nearest}"
        )
