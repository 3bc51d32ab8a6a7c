r"""Unlearning (Wang et al. 2024): make the model forget the query; which images does that hurt?

    theta' = theta + s ||theta|| u,     u = F^-1 g / ||F^-1 g||,     g = grad loss(query)
    score(i) = loss_i(theta') - loss_i(theta)

F is the diagonal of the Fisher information, the mean of squared per-sample gradients over training
images. To first order score(i) is <grad loss_i, F^-1 g> times a positive constant: an influence
that needs no features, so any index will do. The price is paid by each query: a forward pass of
the network for every training image and timestep (and once as many before the first query), and
the encoding of every image. Noise is the same before and after, and belongs to (seed, id, t).
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.gradient import setting_of
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scorers.training_images import (
    batches_of,
    in_batches,
    over_training_images,
)
from headwater.attribution.scorers.unlearned.natural_gradient import (
    Loss,
    Options,
    forget,
    gradient_sums,
    layers_of,
    losses,
    restored,
)
from headwater.attribution.scores import Scored
from headwater.curvature.factors import added
from headwater.errors import HeadwaterWarning, NonFiniteError
from headwater.features.batch import Batch
from headwater.features.spec import DRAWS
from headwater.methods.row import Method
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import sample
from headwater.models.schedule import evenly_spaced
from headwater.queries.concept import Concept
from headwater.queries.draws import trajectory_noise
from headwater.queries.image import Image
from headwater.queries.query import Description, Question
from headwater.runtime.batch_size import BatchSize
from headwater.storage import cache

ONCE = "all draws are unlearned together"
# How the pictures of a concept are made.
PICTURE_STEPS, GUIDANCE = 25, 5.0


# --- what is to be forgotten ----------------------------------------------------------------------


def repeat_picture(
    denoiser: Denoiser, x0: Float[Tensor, "1 c *f h w"], prompt: str, seed: int, draws: int
) -> Batch:
    """One picture with its prompt, under several noises."""
    condition = denoiser.encode_captions([prompt] * draws)
    x0 = x0.to(denoiser.device, denoiser.latent_dtype)
    return Batch(x0.expand(draws, *x0.shape[1:]), condition, _ids(seed, draws))


def make_pictures(denoiser: Denoiser, prompts: Sequence[str], seed: int) -> Batch:
    """Pictures that the model makes of these prompts, each with its own.

    They stand for a concept when the prompts differ in all but the concept.
    """
    empty = denoiser.encode_captions([""])
    condition = denoiser.encode_captions(prompts)
    assert condition is not None and empty is not None, "a model that reads no prompts is refused"

    def make(part: Sequence[int]) -> Tensor:
        return sample(
            denoiser,
            trajectory_noise(denoiser, seed, part),
            condition[part],
            empty.repeated(len(part)),
            steps=PICTURE_STEPS,
            guidance=GUIDANCE,
        )

    batch = BatchSize(None, device=denoiser.device)
    made = torch.cat(list(batch.over(range(len(prompts)), make)))
    return Batch(made, condition, _ids(seed, len(prompts)))


def _ids(seed: int, draws: int) -> list[str]:
    return [f"query|{seed}|{draw}" for draw in range(draws)]


class Target(NamedTuple):
    """What a question asks a model to forget, how it was asked, and what its reader must know."""

    batch: Batch
    description: Description
    remarks: Sequence[str] = ()


def target_of(resources: Resources, method: Method, query: Question, draws: int) -> Target:
    """A picture, so many times; a concept as so many pictures that the model makes of its c+.

    Raises:
        MethodError, QueryError: the model cannot be asked for the concept.
    """
    if not isinstance(query, Concept):
        assert isinstance(query, Image), f"{method.name} takes pictures and concepts alone"
        x0 = resources.picture(query).x0
        batch = repeat_picture(resources.denoiser, x0, query.prompt, query.seed, draws)
        return Target(batch, Description(f"by unlearning {query.title}", query.details()))
    drawer = query.drawer(setting_of(resources, method, query))
    remarks = drawer.check(resources.denoiser)
    prompts = [plus for plus, _ in drawer.contexts.pairs[:draws]]
    batch = make_pictures(resources.denoiser, prompts, query.seed)
    words, facts = drawer.describe(draws)
    return Target(batch, Description(f"by unlearning pictures of c+, {words}", facts), remarks)


# --- the score ------------------------------------------------------------------------------------


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """A picture is unlearned as it is; a concept as pictures that the model makes of its c+."""
    draws = query.draws or DRAWS
    target = target_of(resources, method, query, draws)
    facts = {**target.description.facts, "unlearning": asdict(Options())}
    return Scoring(
        dict.fromkeys(options.dampings, Scored(loss_rises(resources, target.batch))),
        Description(target.description.words, facts),
        draws,
        ONCE,
        remarks=tuple(target.remarks),
    )


def loss_rises(
    resources: Resources,
    target: Batch,
    options: Options | None = None,
    batch_size: int | None = None,
) -> Float[Tensor, "1 n"]:
    """By how much the loss of every training image rises when the model forgets the target.

    The losses before and the Fisher information do not depend on the query: they are computed
    once and kept in the index.

    Args:
        batch_size: images at a time; None finds the largest that memory safely holds.

    Raises:
        MismatchError: the images are not those of the index.
        NonFiniteError: there is nothing to unlearn, or the model broke.
    """
    options, denoiser = options or Options(), resources.denoiser
    resources.index.require_same_images()
    warn_of_rounding(denoiser)
    loss = Loss(denoiser, forgetting_timesteps(resources, options.timesteps), options.seed)
    layers = layers_of(denoiser, options.parameters)
    before = remember(
        resources,
        {"losses": loss.timesteps, "seed": loss.seed},
        lambda: {"losses": training_losses(resources, loss, batch_size, "losses before")},
    )["losses"]
    fisher = remember(
        resources,
        {"fisher": loss.timesteps, "seed": loss.seed, "of": list(layers), "n": options.images},
        lambda: fisher_information(resources, loss, layers, options.images, batch_size),
    )
    with restored(layers):
        forget(loss, layers, target, fisher, options, batch_size)
        after = training_losses(resources, loss, batch_size, "losses after")
    if not after.isfinite().all():
        raise NonFiniteError(f"unlearning broke the model: take a smaller step than {options.step}")
    return (after - before)[None]


def warn_of_rounding(denoiser: Denoiser) -> None:
    """Say that a model in half precision is a poor one to move by small steps."""
    if denoiser.latent_dtype != denoiser.dtype:
        text = f"unlearning moves weights by small steps, which {denoiser.dtype} rounds"
        warnings.warn(text, HeadwaterWarning, stacklevel=3)


def forgetting_timesteps(resources: Resources, count: int) -> tuple[int, ...]:
    """The middles of `count` equal parts of the index's timesteps, or of ten if it has none."""
    steps = len(resources.denoiser.schedule)
    among = resources.index.recipe.timesteps or evenly_spaced(10, steps)
    count = min(count, len(among))
    return tuple(among[(2 * i + 1) * len(among) // (2 * count)] for i in range(count))


def training_losses(
    resources: Resources, loss: Loss, batch_size: int | None = None, title: str = "losses"
) -> Float[Tensor, " n"]:
    """The loss of every training image, in index order."""
    return over_training_images(resources, lambda images: losses(loss, images), batch_size, title)


def fisher_information(
    resources: Resources,
    loss: Loss,
    layers: Mapping[str, nn.Module],
    count: int,
    batch_size: int | None = None,
) -> dict[str, Float[Tensor, " d"]]:
    """The mean over some training images and the timesteps of squared per-sample gradients."""
    index = resources.index
    rows = random.Random(f"fisher|{loss.seed}").sample(range(len(index)), min(count, len(index)))
    batch = BatchSize(batch_size, device=loss.denoiser.device)

    def compute(part: Sequence[int]) -> dict[str, Tensor]:
        return added(
            gradient_sums(loss, layers, images, torch.square)
            for _, images in batches_of(resources, index.pictures.image, part)
        )

    total = added(in_batches(batch, sorted(rows), compute, "Fisher information"))
    return {name: (sum_ / len(rows) / len(loss.timesteps)).cpu() for name, sum_ in total.items()}


def remember(
    resources: Resources, facts: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What does not depend on the query: computed once for this model and kept."""
    manifest = resources.index.manifest
    of = {"model": manifest.model["fingerprint"], "data": resources.index.fingerprint}
    facts = {"unlearning": 2, **of, **facts}
    return cache.remember(resources.index.path / "queries", facts, compute).tensors
