r"""GUDA: groups of images, each unlearned by the whole model (Murata et al. 2026, 2601.22651).

    score(group) = ELBO(query; model) - ELBO(query; model that has unlearned the group)

The ELBO is that of diffusion, -sum_t 1/2 (SNR(t-1) - SNR(t)) E ||x0 - x0hat||^2 up to a constant,
at some timesteps and with the same noise for both models. An image's score is its group's. A group
is unlearned by `redirection`: L = loss of images outside + lambda loss of its own, redirected. What
has unlearned a group does not depend on the query, and is kept.

As published the loss of images of the group is by their own captions: the paper's second variant,
for models of text, redirects concepts by their words (ESD) and is not here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scorers.training_images import batches_of, over_training_images
from headwater.attribution.scorers.unlearned.descent import (
    Plan,
    descend,
    noised_parts,
    squared_errors,
)
from headwater.attribution.scorers.unlearned.natural_gradient import (
    Loss,
    losses_by_timestep,
    restored,
)
from headwater.attribution.scorers.unlearned.redirection import nearest_outside, redirected
from headwater.attribution.scorers.unlearned.unlearning import (
    remember,
    repeat_picture,
    warn_of_rounding,
)
from headwater.attribution.scores import Scored
from headwater.errors import MethodError
from headwater.features.batch import Batch
from headwater.features.spec import DRAWS
from headwater.gradients.layers import parameters_of
from headwater.gradients.parameters import first_match, select
from headwater.methods.row import Method
from headwater.models.denoiser import Denoiser
from headwater.models.schedule import Schedule
from headwater.queries.pictures.grouped import GroupedImage, Grouping
from headwater.queries.query import Description, Question
from headwater.storage import cache


@dataclass(frozen=True)
class Options:
    """How a group is unlearned, and where the ELBO is taken.

    Args:
        learning_rate: of Adam; the paper takes 1e-5 for thousands of steps.
        steps: of it.
        batch: images outside the group, and in it, at each step.
        timesteps: at how many of them a batch is noised.
        weight: lambda; the paper's for CIFAR-10.
        neighbours: of each image of the group; the paper's.
        cap: of the KL divergence of a step; the published code's.
        levels: timesteps of the ELBO, evenly spaced.
        seed: of noise, and of the choice of images.
    """

    learning_rate: float = 1e-4
    steps: int = 100
    batch: int = 32
    timesteps: int = 4
    weight: float = 0.03
    neighbours: int = 10
    cap: float = 1.0
    levels: int = 20
    seed: int = 0


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """Each image's score is its group's, or the mean of its groups'; others rank below.

    Raises:
        MismatchError: the images are not those of the index.
        MethodError: images are of several sizes.
        QueryError: the groups cannot be asked about.
    """
    assert isinstance(query, GroupedImage), f"{method.name} takes pictures and groups alone"
    draws, given = query.draws or DRAWS, Options()
    grouping = query.grouping(resources.index.samples)
    x0 = resources.picture(query).x0
    batch = repeat_picture(resources.denoiser, x0, query.prompt, query.seed, draws)
    scores = group_scores(resources, batch, grouping, given)
    table = _table(grouping, scores)
    listed = ", ".join(f"{row['group']} {row['score']:+.4g}" for row in table)
    facts = {**query.details(), "guda": asdict(given), "groups": table}
    members = grouping.members.to(scores)
    grouped = grouping.members.any(1)
    of_images = scores @ (members / members.sum(1, keepdim=True).clamp_min(1)).T
    return Scoring(
        dict.fromkeys(options.dampings, Scored(of_images)),
        Description(f"of {query.title} by unlearning each group: {listed}", facts),
        draws,
        remarks=grouping.remarks,
        among=None if grouped.all() else grouped.nonzero()[:, 0].tolist(),
    )


def _table(grouping: Grouping, scores: Float[Tensor, "q g"]) -> list[dict[str, str | int | float]]:
    """The groups, highest score first."""
    means, sizes = scores.mean(0).tolist(), grouping.members.sum(0).tolist()
    rows = zip(grouping.names, sizes, means, strict=True)
    table = [{"group": name, "images": size, "score": mean} for name, size, mean in rows]
    return sorted(table, key=lambda row: -float(row["score"]))


def group_scores(
    resources: Resources, target: Batch, grouping: Grouping, options: Options | None = None
) -> Float[Tensor, "q g"]:
    """By how much the ELBO of a picture falls without each group, draw by draw.

    Args:
        target: the picture, so many times.

    Raises:
        MismatchError, MethodError: see `score`.
    """
    options, denoiser = options or Options(), resources.denoiser
    resources.index.require_same_images()
    warn_of_rounding(denoiser)
    if denoiser.buckets:
        raise MethodError(
            "guda looks for an image's neighbours among images of its size, and this model has "
            "buckets: ask another method"
        )
    layers = unlearning_layers(denoiser)
    before = negative_elbo(denoiser, target, options)
    rises = []
    for column in range(len(grouping.names)):
        group = grouping.members[:, column].nonzero()[:, 0].tolist()
        weights = without(resources, layers, group, options)
        with restored(layers):
            _place(layers, weights)
            rises.append(negative_elbo(denoiser, target, options) - before)
    return torch.stack(rises, 1)


# --- the ELBO -------------------------------------------------------------------------------------


def negative_elbo(denoiser: Denoiser, target: Batch, options: Options) -> Float[Tensor, " q"]:
    """-ELBO of each draw, up to a constant, per number of x0."""
    schedule = denoiser.schedule
    timesteps = tuple(schedule.evenly_spaced(options.levels))
    errors = losses_by_timestep(Loss(denoiser, timesteps, options.seed), target)
    weights = torch.tensor([elbo_weight(schedule, t) for t in timesteps]).to(errors)
    return (weights @ errors * len(schedule) / len(timesteps)).cpu()


def elbo_weight(schedule: Schedule, t: int) -> float:
    """What the squared error of the output at t > 0 weighs in the ELBO.

    1/2 (SNR(t-1) - SNR(t)) of the error in x0 (Kingma et al. 2021, equation 13), which is s/D times
    that of the output.
    """
    (a, s), (a1, s1) = schedule.rates(t), schedule.rates(t - 1)
    fall = (a1 / s1) ** 2 - (a / s) ** 2
    return 0.5 * fall * (s / schedule.determinant(t)) ** 2


# --- unlearning a group ---------------------------------------------------------------------------


def unlearning_layers(denoiser: Denoiser) -> dict[str, nn.Module]:
    """The layers that learn: of an adapter if there is one, else all."""
    family, network = denoiser.family, denoiser.network
    which = first_match(network, ("lora", "all"), family.parameter_sets)
    return select(network, which, family.parameter_sets, family.mixed)


def without(
    resources: Resources,
    layers: Mapping[str, nn.Module],
    group: Sequence[int],
    options: Options,
) -> dict[str, Float[Tensor, " d"]]:
    """The weights, by layer, of a model that has unlearned these rows of the index; kept."""
    ids = [resources.index.samples[row].id for row in group]
    facts = {"guda": {**asdict(options), "levels": None}, "group": cache.key(sorted(ids))}

    def compute() -> dict[str, Tensor]:
        with restored(layers):
            _unlearn(resources, layers, group, options)
            return {
                name: torch.cat([weight.detach().flatten() for weight in parameters_of(layer)])
                for name, layer in layers.items()
            }

    return remember(resources, facts, compute)


@torch.no_grad()
def _place(layers: Mapping[str, nn.Module], kept: Mapping[str, Float[Tensor, " d"]]) -> None:
    """Put weights into their layers; call it inside `restored`."""
    for name, layer in layers.items():
        weights = parameters_of(layer)
        for weight, part in zip(
            weights, kept[name].split([each.numel() for each in weights]), strict=True
        ):
            weight.copy_(part.reshape(weight.shape))


def _unlearn(
    resources: Resources, layers: Mapping[str, nn.Module], group: Sequence[int], options: Options
) -> None:
    """Train the model on to predict images of the group as their neighbours outside it."""
    denoiser = resources.denoiser
    outside = sorted(set(range(len(resources.index))) - set(group))
    x0 = over_training_images(resources, lambda images: images.x0, title="latents")
    nearest = nearest_outside(x0, group, outside, options.neighbours)
    place = {row: i for i, row in enumerate(group)}

    def parts(step: int) -> Iterator[Tensor]:
        key = f"guda|{options.seed}|{step}"
        count = min(options.batch, len(outside))
        _, kept = _drawn(resources, outside, count, key)
        for noised in noised_parts(denoiser, kept, options.timesteps, f"{key}|kept"):
            yield squared_errors(denoiser, noised).sum() / count
        count = min(options.batch, len(group))
        rows, forgotten = _drawn(resources, group, count, key)
        for noised in noised_parts(denoiser, forgotten, options.timesteps, key):
            near = x0[nearest[[place[rows[i]] for i in noised.rows]]].to(noised.xt)
            target = redirected(denoiser.schedule, noised, near, options.cap)
            yield options.weight * squared_errors(denoiser, noised, target).sum() / count

    weights = [weight for layer in layers.values() for weight in parameters_of(layer)]
    descend(denoiser, weights, parts, Plan(options.steps, options.learning_rate))


def _drawn(
    resources: Resources, rows: Sequence[int], count: int, key: str
) -> tuple[list[int], Batch]:
    """So many of these rows at random, and their images."""
    drawn = sorted(random.Random(key).sample(list(rows), count))
    ((_, images),) = batches_of(resources, resources.index.pictures.image, drawn)
    return drawn, images
