"""Influence by a curvature without a projection: a pass over the training images for a question."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.gradient import setting_of
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions, release_checkpoint
from headwater.attribution.scorers.training_images import over_training_images
from headwater.attribution.scores import Scored
from headwater.curvature.exact import onto, preconditioned, unprojected
from headwater.features.extractor import Extractor
from headwater.features.spec import DRAWS
from headwater.index.curvature.fit import fit_of, load_curvature
from headwater.index.machines import without_projection
from headwater.methods.row import Method
from headwater.queries.query import Drawer, Question
from headwater.runtime.batch_size import BatchSize

ONCE = "an exact answer is of all draws together"


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """(F + lambda)^-1 g of the question at each damping, against every image's gradient.

    The mean over checkpoints, of which one is in memory at a time.
    """
    resources.index.require_same_images()
    drawer = query.drawer(setting_of(resources, method, query))
    draws = drawer.limit or query.draws or DRAWS
    remarks = drawer.check(resources.denoiser)
    found = []
    for member in resources.members:
        found.append(influences(member, resources, drawer, draws, options.dampings))
        release_checkpoint(resources, member)
    mean = torch.stack(found).mean(0)
    scored = {ratio: Scored(row[None]) for ratio, row in zip(options.dampings, mean, strict=True)}
    return Scoring(scored, drawer.describe(draws), draws, ONCE, remarks=tuple(remarks))


def influences(
    member: Resources,
    images: Resources,
    drawer: Drawer,
    draws: int,
    dampings: Sequence[float],
) -> Float[Tensor, "d n"]:
    """Of every image by one model, at each damping; `images` are of the index that is asked."""
    index = member.index
    machine = without_projection(member.denoiser, index.recipe)
    fit = fit_of(index.path, index.manifest, index.recipe)
    curvature = load_curvature(fit, machine.layers)
    row = mean_row(unprojected(machine, curvature), drawer, draws)
    asked = torch.stack([preconditioned(row, machine, curvature, each) for each in dampings])
    dots = onto(machine, curvature, asked)
    found = over_training_images(
        images, lambda part: dots.train_rows(part).features, title="influence"
    )
    return found.float().T


def mean_row(machine: Extractor, drawer: Drawer, draws: int) -> Float[Tensor, " d"]:
    """The mean of a question's rows over its draws, of which a batch stands in memory."""
    batch = BatchSize(None, device=machine.denoiser.device)

    def compute(part: Sequence[int]) -> Tensor:
        return machine.query_rows(drawer.objectives(machine, part)).sum(0)

    return sum(batch.over(range(draws), compute), torch.zeros(())) / draws
