"""Training on: a few steps of Adam on some weights, by a loss that is given part by part.

What is changed here is undone by whoever calls it inside `natural_gradient.restored`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import NonFiniteError
from headwater.features.batch import Batch
from headwater.gradients.layers import parameters_of
from headwater.models.denoiser import Denoiser
from headwater.models.patches import frozen
from headwater.models.sampling import seeded_noise
from headwater.runtime.progress import ProgressBar


@dataclass(frozen=True)
class Plan:
    """How long and how fast weights are trained on.

    Args:
        steps: at most so many.
        learning_rate: of Adam.
        title: of the bar.
    """

    steps: int
    learning_rate: float
    title: str = "unlearning"


def descend(
    denoiser: Denoiser,
    weights: Sequence[nn.Parameter],
    parts: Callable[[int], Iterable[Tensor]],
    plan: Plan,
    enough: Callable[[], bool] = lambda: False,
) -> int:
    """Steps of Adam down a loss; how many were made.

    Args:
        weights: of the denoiser's network; no other asks for a gradient, and no dropout fires.
        parts: step -> losses whose sum it goes down, each with a graph of its own.
        enough: asked before each step, once its losses are known, whether to stop.

    Raises:
        NonFiniteError: a loss is NaN or infinite.
    """
    optimizer = torch.optim.Adam(weights, lr=plan.learning_rate)
    with _only_these_learn(denoiser.network, weights):
        for step in ProgressBar(range(plan.steps), desc=plan.title, unit="step"):
            optimizer.zero_grad()
            for loss in parts(step):
                if not loss.isfinite():
                    raise NonFiniteError(
                        f"the loss is NaN or infinite at step {step} of unlearning: compute in "
                        "float32 if the model ran in half precision"
                    )
                loss.backward()
            if enough():
                return step
            optimizer.step()
    return plan.steps


@contextmanager
def _only_these_learn(network: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    with frozen(network), torch.enable_grad():
        try:
            for weight in weights:
                weight.requires_grad_(True)
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(False)
                weight.grad = None


def matrices_of(layers: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    """The weights of these layers without their biases and scales."""
    every = [weight for layer in layers.values() for weight in parameters_of(layer)]
    return [weight for weight in every if weight.ndim > 1]


@dataclass(frozen=True)
class Noised:
    """Some rows of a batch at one timestep.

    Attributes:
        rows: which they are.
        xt: noised.
        noise: that made them so.
        batch: these rows, clean, with their conditions.
    """

    rows: Sequence[int]
    t: int
    xt: Float[Tensor, "b c *f h w"]
    noise: Float[Tensor, "b c *f h w"]
    batch: Batch


def noised_parts(denoiser: Denoiser, batch: Batch, count: int, key: str) -> Iterator[Noised]:
    """A batch in `count` parts, each at a timestep of its own, as `key` decides.

    A trainer draws a timestep for each sample; the networks here are asked for one at a time.
    """
    choice = random.Random(key)
    size = -(-len(batch.ids) // count)
    batch = one_caption_each(batch, key)
    for start in range(0, len(batch.ids), size):
        rows = range(start, min(start + size, len(batch.ids)))
        t = choice.randrange(len(denoiser.schedule))
        part = batch.part(rows)
        keys = [f"{key}|{id}|{row}" for id, row in zip(part.ids, rows, strict=True)]
        noise = torch.stack([seeded_noise(batch.x0.shape[1:], each) for each in keys])
        noise = noise.to(part.x0)
        yield Noised(rows, t, denoiser.schedule.noised(part.x0, noise, t), noise, part)


def one_caption_each(batch: Batch, key: str) -> Batch:
    """The batch with one caption drawn for each of its images that have several."""
    if not batch.counts:
        return batch
    drawn = batch.drawn([f"{key}|{id}" for id in batch.ids])
    return replace(batch, condition=drawn, counts=())


def squared_errors(
    denoiser: Denoiser, noised: Noised, target: Float[Tensor, "b c *f h w"] | None = None
) -> Float[Tensor, " b"]:
    """The mean squared error of each output, with its graph; by default of the training loss."""
    if target is None:
        target = denoiser.schedule.asked(noised.batch.x0, noised.noise, noised.t)
    out = denoiser.predict(noised.xt, noised.t, noised.batch.condition)
    return (out - target).square().flatten(1).mean(1)
