"""Which images one caption explains better than all others, by as few losses as that takes.

The margin of a caption c over another c' is a sum over timesteps, loss(z, c') - loss(z, c). Losses
are taken timestep by timestep, the most telling first, and a pair is decided as soon as its sum is
larger than any that later turned to the other side on a sample of images whose captions say what
they show: a sequential test (Wald 1945) of a diffusion classifier, which prunes candidates
likewise (Li et al. 2023, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Margins of a sample from which one learns when to stop; of fewer all timesteps are taken.
ENOUGH = 50

# (which images, under which of their captions, at which timestep) -> their losses.
LossesOf = Callable[[list[int], int, int], Float[Tensor, " m"]]


@dataclass(frozen=True)
class Course:
    """In which order timesteps are taken, and when a pair of captions is decided.

    Attributes:
        order: of the timesteps.
        bounds: a sum of margins beyond it is taken to stay on its side; after the last timestep 0.
    """

    order: Sequence[int]
    bounds: Sequence[float]


def course_of(margins: Float[Tensor, "t m"]) -> Course:
    """The course that leads to every decision of a sample that all of its timesteps lead to.

    Timesteps with the highest mean margin in standard deviations come first.

    Args:
        margins: of captions that are right over others, at each timestep.

    >>> course_of(torch.tensor([[0.1, 0.3], [1.0, 1.1]]).repeat(1, 40)).order
    [1, 0]
    """
    count = len(margins)
    if margins.shape[1] < ENOUGH:
        return Course(range(count), [torch.inf] * (count - 1) + [0.0])
    order = (margins.mean(1) / margins.std(1)).argsort(descending=True)
    sums = margins[order].cumsum(0)
    turned = sums.sign() != sums[-1].sign()
    return Course(order.tolist(), sums.abs().masked_fill(~turned, 0).amax(1).tolist())


def explained_best(
    losses: LossesOf, images: int, captions: int, course: Course
) -> tuple[Bool[Tensor, " n"], int]:
    """Which of so many images their first caption explains better than each of the others.

    An image is done with at the first caption that is clearly better, a caption at the first
    timestep at which it is clearly worse.

    Returns:
        And how many losses that took.

    >>> table = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])  # one timestep, two images, two captions
    >>> losses = lambda places, caption, t: table[t, places, caption]
    >>> explained_best(losses, 2, 2, Course([0], [0.0]))
    (tensor([ True, False]), 4)
    """
    sums = torch.zeros(captions - 1, images, dtype=torch.float64)
    undecided = torch.ones(captions - 1, images, dtype=torch.bool)
    taken = 0

    def taken_at(which: Bool[Tensor, " n"], caption: int, t: int) -> Float[Tensor, " n"]:
        nonlocal taken
        found, places = torch.zeros(images, dtype=torch.float64), torch.nonzero(which).flatten()
        if len(places):
            found[places] = losses(places.tolist(), caption, t).double().cpu()
        taken += len(places)
        return found

    for t, bound in zip(course.order, course.bounds, strict=True):
        first = taken_at(undecided.any(0), 0, t)
        for pair in range(captions - 1):
            which = undecided[pair].clone()
            sums[pair] += taken_at(which, pair + 1, t) - first * which
            undecided[pair] &= sums[pair].abs() <= bound
            undecided[:, sums[pair] < -bound] = False
    return (sums > 0).all(0), taken
