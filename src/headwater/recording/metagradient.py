r"""What an image's weight in a recorded training does to its end (MAGIC; Ilyas & Engstrom 2025).

With the steps s_{k+1} = step(s_k, g_k) of weights and moments s, where g_k is the gradient of
sum_i omega_i loss_i, the derivative of an output f by the weight omega_i at 1 is found backwards:
with a the derivative of f by s_{k+1},

    d f / d omega_i  +=  a . (d step / d g) . (d g_k / d omega_i),    a  <-  a . d s_{k+1} / d s_k.

Both products are one derivative of g_k . (a d step / d g): no Hessian is formed. Of Adam and
clipping as of plain descent. It is exact for small weights. Where a training is not stable a grows
from step to step, and what stands before tells nothing any more: it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.recording.optimizers import State
from headwater.recording.recording import Step
from headwater.recording.replay import Replay

# Where the derivative by the weights is so many times that at the end, a training is not stable:
# steps from there back are left out. On adapters it was at most 5 (experiments/left_out.py).
GROWTH = 10.0


class Metagradient(NamedTuple):
    """Of k outputs by images' weights.

    Attributes:
        by_image: id -> [k], summed over the steps in which it was seen.
        steps: how many, from the end, were derived.
        growth: the norm of the derivative by the weights after each of these steps, from the
            last, over that at the end, which is 1; the largest of the outputs.
        gradient_error, drift: the largest of `replay.Segment`'s.
    """

    by_image: dict[str | int, Float[Tensor, " k"]]
    steps: int
    growth: list[float]
    gradient_error: float
    drift: float


def metagradient(
    replay: Replay,
    ends: Float[Tensor, "k p"],
    tick: Callable[[int], Any] = lambda steps: None,
    growth: float = GROWTH,
) -> Metagradient:
    """The derivative of outputs by the weight of each image in the training's loss.

    Args:
        ends: the outputs' gradients by the trained parameters at the end.
        tick: is told how many steps were derived, segment by segment.
        growth: of the derivative by the weights, beyond which nothing is trusted.

    Raises:
        MismatchError: the training comes out otherwise than recorded.
    """
    recording = replay.recording
    ends = ends.to(replay.device, replay.dtype)
    adjoint = (ends, *(torch.zeros_like(ends) for _ in recording.rule.moments))
    size, grown = ends.norm(dim=1), list[float]()
    by_image: dict[str | int, Tensor] = {}
    errors, drifts = [0.0], [0.0]
    for start, stop in reversed(replay.segments()):
        steps = [recording.step(number) for number in range(start, stop)]
        segment = replay.segment(start, stop, steps)
        errors.append(segment.gradient_error)
        drifts.append(segment.drift)
        for state, step in zip(reversed(segment.states), reversed(steps), strict=True):
            larger = float((adjoint[0].norm(dim=1) / size).max())
            if not larger <= growth:
                return Metagradient(by_image, len(grown), grown, max(errors), max(drifts))
            grown.append(larger)
            adjoint, by_row = before(replay, state, step, adjoint)
            ids = [id for batch in step.batches for id in batch.ids]
            for id, row in zip(ids, by_row.T.cpu(), strict=True):
                by_image[id] = by_image.get(id, 0) + row
        tick(len(segment.states))
    return Metagradient(by_image, len(grown), grown, max(errors), max(drifts))


@torch.enable_grad()
def before(
    replay: Replay, state: State, step: Step, adjoint: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], Float[Tensor, "k r"]]:
    """One step backwards.

    Args:
        state: before the step.
        adjoint: the outputs' derivatives by weights and moments after it, [k, p] each.

    Returns:
        The same before it, and the derivatives by what each of the step's pictures counts.
    """
    weights = state.weights.detach().requires_grad_()
    counts = weights.new_ones(sum(len(batch.ids) for batch in step.batches)).requires_grad_()
    gradient = replay.gradient(step, weights, counts, graph=True)
    # First through the optimizer's step, number by number, then through the gradient.
    leaves = [each.detach().requires_grad_() for each in (weights, *state.moments, gradient)]
    after = replay.after(State(leaves[0], tuple(leaves[1:-1]), state.count), step, leaves[-1])
    made = [after.weights, *after.moments]
    kept = [(each, a) for each, a in zip(made, adjoint, strict=True) if each.requires_grad]
    *through, by_gradient = torch.autograd.grad(
        [each for each, _ in kept], leaves, [a for _, a in kept],
        is_grads_batched=True, allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    found = [
        torch.autograd.grad(gradient, [weights, counts], row, retain_graph=True)
        for row in by_gradient
    ]
    by_weights = through[0] + torch.stack([of_weights for of_weights, _ in found])
    return (by_weights, *through[1:]), torch.stack([of_counts for _, of_counts in found])
