"""Rewards: which training images taught the model to make pictures that a function scores high?

A reward R is any differentiable function of pictures. At each probe of trajectories under the
prompt delta = + grad_xt R(x0hat(xt)) (Concept-TRAK C.2), through the network and the autoencoder:
J^T delta is the gradient of ||sg[eps - grad_xt R] - eps||^2, so a positive score still means a
proponent: training on the image moves the model towards a higher reward.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import QueryError, first_line
from headwater.features.extractor import Extractor
from headwater.features.objectives import Objective, reward_objectives
from headwater.features.spec import DRAWS
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.queries.draws import trajectory_noise
from headwater.queries.query import Description, Question, Setting, require_draws
from headwater.queries.words.token_limit import lost_words
from headwater.runtime.batch_size import out_of_memory
from headwater.runtime.plugins import function_named, sources_reached


@dataclass(frozen=True)
class Scorer:
    """A reward function, and what it is known by.

    Attributes:
        title: in a word or two.
        key: of all that its value depends on besides the image. Gradients are kept under it, so
            another function, or other weights inside it, must have another key.
        function: images [b, 3, h, w] from 0 to 1, with their graph -> a number for each (of more
            numbers the sum counts); higher is better.

    >>> redness = Scorer("redness", "mean of red, 1", lambda images: images[:, 0].mean((1, 2)))
    >>> Reward("a star", redness).title
    'redness'
    """

    title: str
    key: str
    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reward(Question):
    """Which training images taught the model to score high, in pictures of this prompt?

    Args:
        prompt: what trajectories run under; a model that reads no prompts does not see it.
        scorer: the reward; see `from_module` and `similarity_to`.
        draws: trajectories, each with its own noise; None takes as many as a stable top ten needs.
        seed: of noise.

    Raises:
        QueryError: less than one draw.

    >>> warmth = Scorer("warmth", "red less blue", lambda x: (x[:, 0] - x[:, 2]).mean((1, 2)))
    >>> Reward("a lighthouse at dusk", warmth).title
    'warmth'
    """

    prompt: str
    scorer: Scorer
    draws: int | None = DRAWS
    seed: int = 0

    kind = "reward"

    def __post_init__(self) -> None:
        require_draws(self.draws)

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.scorer.title

    def drawer(self, setting: Setting) -> RewardDrawer:
        """The question, ready to be asked."""
        return RewardDrawer(self)


@dataclass(frozen=True)
class RewardDrawer:
    """The reward along trajectories of the prompt, one a draw."""

    query: Reward
    limit: int | None = None
    once: str = ""
    training_rows: Sequence[Collection[int]] = ()

    @property
    def title(self) -> str:
        """What is asked for, in a word or two."""
        return self.query.title

    def describe(self, draws: int) -> Description:
        """What raises the reward."""
        query = self.query
        facts = {"prompt": query.prompt, "reward": query.title, "reward key": query.scorer.key}
        return Description("what raises this reward along trajectories of the prompt", facts)

    def key(self, draws: range) -> Mapping[str, Any]:
        """The scorer goes by its key."""
        return {
            "type": "reward",
            "reward": self.query.scorer.key,
            "prompt": self.query.prompt,
            "seed": self.query.seed,
        }

    def check(self, denoiser: Denoiser) -> Sequence[str]:
        """Refuse a function that does not score images one by one, and a lack of a prompt.

        Raises:
            QueryError: so it is.
        """
        if denoiser.conditional and not self.query.prompt.strip():
            raise QueryError("a reward is asked for in pictures of a prompt: give one")
        require_scores(self.query.scorer, denoiser)
        return lost_words(denoiser, [self.query.prompt])

    def probes(self, extractor: Extractor) -> int:
        """One at each timestep."""
        return len(extractor.timesteps)

    def objectives(self, extractor: Extractor, draws: Sequence[int]) -> Iterator[Objective]:
        """Trajectories under the prompt, asked for grad R.

        Raises:
            QueryError: the gradient is NaN or infinite.
        """
        denoiser, reward = extractor.denoiser, self.query.scorer.function
        condition = denoiser.encode_captions([self.query.prompt] * len(draws))
        noise = trajectory_noise(denoiser, self.query.seed, draws)
        for objective in reward_objectives(denoiser, noise, condition, reward, extractor.timesteps):
            if not objective.delta.isfinite().all():
                raise QueryError(
                    f"the reward {self.title!r} has a NaN or infinite gradient: it must be smooth "
                    "in pictures from 0 to 1, as they come"
                )
            yield objective


# --- where rewards come from ----------------------------------------------------------------------


def from_module(name: str) -> Scorer:
    """The function that "module:function" names, from the working directory or what is installed.

    It is known by its name, the module's source, and those of the modules that this imports and
    that are not installed packages; what else it reads (weights in a file) is not seen.

    Raises:
        QueryError: no such module or function.
    """
    function, _ = function_named("--reward", name)
    digest = hashlib.sha256(f"{name}\n".encode())
    for source in sources_reached(name.partition(":")[0]).values():
        digest.update(source)
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
