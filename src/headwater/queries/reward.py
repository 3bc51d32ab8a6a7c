"""Rewards: which training images taught the model to make pictures that a function scores high?

A reward R is any differentiable function of pictures. At each probe of trajectories under the
prompt delta = + grad_xt R(x0hat(xt)) (Concept-TRAK C.2), through the network and the autoencoder:
J^T delta is the gradient of ||sg[eps - grad_xt R] - eps||^2, so a positive score still means a
proponent: training on the image moves the model towards a higher reward.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import QueryError, first_line
from headwater.features.extractor import Extractor
from headwater.features.objectives import Asked, about_reward
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.queries.draws import trajectory_noise
from headwater.queries.query import require_draws
from headwater.runtime.batch_size import out_of_memory
from headwater.runtime.plugins import function_named


@dataclass(frozen=True)
class Scorer:
    """A reward function, and what it is known by.

    Attributes:
        title: in a word or two.
        key: of all that its value depends on besides the image. Gradients are kept under it, so
            another function, or other weights inside it, must have another key.
        function: images [b, 3, h, w] from 0 to 1, with their graph -> a number for each (of more
            numbers the sum counts); higher is better.
    """

    title: str
    key: str
    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reward:
    """Which training images taught the model to score high, in pictures of this prompt?

    Args:
        prompt: what trajectories run under; a model that reads no prompts does not see it.
        scorer: the reward; see `from_module` and `similarity_to`.
        draws: trajectories, each with its own noise; None takes as many as a stable top ten needs.
        seed: of noise.

    Raises:
        QueryError: less than one draw.
    """

    prompt: str
    scorer: Scorer
    draws: int | None = 32
    seed: int = 0

    def __post_init__(self) -> None:
        require_draws(self.draws)

    @property
    def kind(self) -> str:
        """Which of the kinds of question it is."""
        return "reward"

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.scorer.title

    @property
    def description(self) -> str:
        """How it is asked, to go on from "asked"."""
        return "what raises this reward along trajectories of the prompt"

    def details(self) -> Mapping[str, Any]:
        """The same for provenance."""
        return {"prompt": self.prompt, "reward": self.title, "reward key": self.scorer.key}

    def drawer(self, denoiser: Denoiser) -> RewardDrawer:
        """The question, ready to be asked.

        Raises:
            QueryError: the function does not score images one by one, or there is no prompt.
        """
        if denoiser.conditional and not self.prompt.strip():
            raise QueryError("a reward is asked for in pictures of a prompt: give one")
        require_scores(self.scorer, denoiser)
        denoiser.warn_of_lost_words([self.prompt])
        return RewardDrawer(self.scorer, self.prompt, self.seed)


@dataclass(frozen=True)
class RewardDrawer:
    """The reward along trajectories of the prompt, one a draw."""

    scorer: Scorer
    prompt: str
    seed: int
    limit: int | None = None

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.scorer.title

    def key(self, draws: range) -> Mapping[str, Any]:
        """The scorer goes by its key."""
        return {
            "type": "reward",
            "reward": self.scorer.key,
            "prompt": self.prompt,
            "seed": self.seed,
        }

    def probes(self, machine: Extractor) -> int:
        """One at each timestep."""
        return len(machine.timesteps)

    def asked(self, machine: Extractor, draws: Sequence[int]) -> Iterator[Asked]:
        """Trajectories under the prompt, asked for grad R.

        Raises:
            QueryError: the gradient is NaN or infinite.
        """
        denoiser = machine.denoiser
        condition = denoiser.encode_captions([self.prompt] * len(draws))
        noise = trajectory_noise(denoiser, self.seed, draws)
        for asked in about_reward(
            denoiser, noise, condition, self.scorer.function, machine.timesteps
        ):
            if not asked.delta.isfinite().all():
                raise QueryError(
                    f"the reward {self.title!r} has a NaN or infinite gradient: it must be smooth "
                    "in pictures from 0 to 1, as they come"
                )
            yield asked


# --- where rewards come from ----------------------------------------------------------------------


def from_module(name: str) -> Scorer:
    """The function that "module:function" names, from the working directory or what is installed.

    It is known by its name and the module's source; what else it reads (weights in a file) is not
    seen.

    Raises:
        QueryError: no such module or function.
    """
    function, file = function_named("--reward", name)
    digest = hashlib.sha256(f"{name}\n".encode())
    if file is not None:
        digest.update(file.read_bytes())
    return Scorer(name, digest.hexdigest(), function)


def similarity_to(words: str, clip: Clip) -> Scorer:
    """CLIP's cosine similarity of a picture with these words.

    Raises:
        QueryError: no words.
    """
    if not words.strip():
        raise QueryError("--reward-text '' says nothing: give words")
    text = clip.texts([words])

    def similarity(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return torch.nn.functional.cosine_similarity(clip.pixels(images), text)

    key = hashlib.sha256(f"clip\n{clip.fingerprint()}\n{words}".encode()).hexdigest()
    return Scorer(words, key, similarity)


# --- what can be asked for ------------------------------------------------------------------------


def require_scores(scorer: Scorer, denoiser: Denoiser) -> None:
    """Refuse a function that does not give each image a score of its own, on two random images.

    Raises:
        QueryError: it fails, returns another shape, does not depend on the image, or mixes images.
    """
    height, width = denoiser.image_size
    noise = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    images = noise.to(denoiser.device, denoiser.latent_dtype).requires_grad_()
    values = _tried(scorer, images)
    what = f"the reward {scorer.title!r}"
    if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != 2:
        found = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise QueryError(
            f"{what} must return one number for each image: of images {list(images.shape)} it "
            f"gave {found}, not [2]"
        )
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values[0].sum(), images, allow_unused=True)
    if gradient is None:
        raise QueryError(
            f"{what} does not depend on the image in a way that torch can differentiate: leave "
            "out detach, no_grad, numpy and PIL"
        )
    if gradient[1].nan_to_num().any():
        raise QueryError(f"{what} mixes the images of a batch: score each by itself")


def _tried(scorer: Scorer, images: Tensor) -> Any:
    try:
        with torch.enable_grad():
            return scorer.function(images)
    except Exception as error:  # the user's function raises whatever it likes
        if out_of_memory(error):
            raise
        raise QueryError(
            f"the reward {scorer.title!r} fails on images {list(images.shape)} from 0 to 1: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
