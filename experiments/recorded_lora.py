"""Adapters of many small trainings side by side, and the derivative of one of them by its images.

A training is recorded by what it draws (`Draws`, of a seed) and by the state before each of its
steps. The derivative of its end by an image's weight in the loss is found backwards (Maclaurin et
al. 2015), step by step, with one product of a Hessian and a vector each; of AdamW as of plain
descent.

Trainings side by side are rows of one batch: the network is the same, and a hook adds to each row
what its own adapters do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from headwater import Denoiser
from headwater.models.condition import Condition

RATE, DECAY, BETAS, EPS = 1e-3, 1e-4, (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Pictures:
    """Encoded, with what their captions say: x0 [n, c, h, w], words of n rows."""

    x0: Tensor
    words: Condition


@dataclass(frozen=True)
class Draws:
    """What a training draws: at each of `steps`, a batch of rows, one timestep, noise."""

    seed: int
    steps: int
    batch: int

    def at(self, step: int, pictures: Pictures) -> tuple[Tensor, int, Tensor]:
        """Rows [b], a timestep, noise [b, c, h, w]."""
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        n = len(pictures.x0)
        order = torch.Generator().manual_seed(self.seed * 7_919 + step * self.batch // n)
        start = step * self.batch % n
        rows = torch.randperm(n, generator=order)[start : start + self.batch]
        t = int(torch.randint(1000, (), generator=chance))
        return rows, t, torch.randn(self.batch, *pictures.x0.shape[1:], generator=chance)


class Adapters:
    """Low-rank adapters on linear layers of a network, m trainings' in one row each of a matrix.

    Of a layer y = W x the row holds A [r, i] and B [o, r], and y becomes W x + B A x.
    """

    def __init__(self, network: nn.Module, ends: Sequence[str], rank: int) -> None:
        self.rank = rank
        self.layers: dict[str, nn.Linear] = {
            name: layer
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear) and name.endswith(tuple(ends))
        }
        sizes = [rank * (layer.in_features + layer.out_features) for layer in self.layers.values()]
        self.sizes = sizes

    def begin(self, seed: int) -> Tensor:
        """One row: A as a linear layer begins, B of zeros."""
        chance = torch.Generator().manual_seed(seed)
        parts = []
        for layer in self.layers.values():
            bound = layer.in_features**-0.5
            a = torch.rand(self.rank * layer.in_features, generator=chance) * 2 * bound - bound
            parts += [a, torch.zeros(self.rank * layer.out_features)]
        return torch.cat(parts)[None]

    def pairs(self, state: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each layer A [m, r, i] and B [m, o, r]."""
        found = {}
        for part, (name, layer) in zip(
            state.split(self.sizes, 1), self.layers.items(), strict=True
        ):
            a, b = part.split([self.rank * layer.in_features, self.rank * layer.out_features], 1)
            found[name] = a.unflatten(1, (self.rank, -1)), b.unflatten(1, (-1, self.rank))
        return found

    @contextmanager
    def applied(self, state: Tensor) -> Iterator[None]:
        """The network with these adapters; its batch is m blocks, one for each row of the state."""
        handles = [
            self.layers[name].register_forward_hook(partial(_add, *pair))
            for name, pair in self.pairs(state).items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _add(a: Tensor, b: Tensor, layer: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
    x = args[0].unflatten(0, (len(a), -1)).flatten(1, 2)  # [m, b t, i]
    return out + (x @ a.mT @ b.mT).view_as(out)


def squared_errors(
    denoiser: Denoiser,
    adapters: Adapters,
    state: Tensor,
    shown: tuple[Pictures, Tensor],
    noised: tuple[int, Tensor],
) -> Tensor:
    """The mean squared error of the output, [m, b], for each training and picture.

    Args:
        shown: pictures, and which rows of them.
        noised: the timestep, and noise [b, c, h, w].
    """
    (pictures, rows), (t, noise), m = shown, noised, len(state)
    x0 = pictures.x0[rows]
    xt, asked = (f(x0, noise, t) for f in (denoiser.schedule.noised, denoiser.schedule.asked))
    with adapters.applied(state):
        out = denoiser.predict(xt.repeat(m, 1, 1, 1), t, pictures.words[rows.tolist() * m])
    return (out - asked.repeat(m, 1, 1, 1)).square().flatten(1).mean(1).view(m, -1)


@dataclass(frozen=True)
class State:
    """Weights and AdamW's moments of m trainings, [m, p] each, after so many steps."""

    weights: Tensor
    first: Tensor
    second: Tensor
    steps: int = 0

    def after(self, gradient: Tensor) -> State:
        """One step of AdamW."""
        (one, two), step = BETAS, self.steps + 1
        first = one * self.first + (1 - one) * gradient
        second = two * self.second + (1 - two) * gradient.square()
        size = (second / (1 - two**step)).sqrt() + EPS
        move = first / (1 - one**step) / size
        return State(self.weights * (1 - RATE * DECAY) - RATE * move, first, second, step)


def last_of(states: Iterable[State]) -> State:
    """The last, of which alone memory is taken."""
    return deque(states, maxlen=1).pop()


@dataclass(frozen=True)
class Run:
    """A model, its adapters, what they learn from and what a training draws."""

    denoiser: Denoiser
    adapters: Adapters
    pictures: Pictures
    draws: Draws

    def begin(self, trainings: int = 1) -> State:
        """Before the first step."""
        weights = self.adapters.begin(self.draws.seed).repeat(trainings, 1).to(self.pictures.x0)
        return State(weights, torch.zeros_like(weights), torch.zeros_like(weights))

    def gradient(self, state: State, weighed: Tensor, graph: bool = False) -> tuple[Tensor, ...]:
        """Of the loss by the weights [m, p], the leaf that it is of, and the weights [m, b].

        Args:
            weighed: what each image counts in each training, [m, n].
            graph: whether to keep that of the gradient.
        """
        rows, t, noise = self.draws.at(state.steps, self.pictures)
        leaf, counts = state.weights.detach().requires_grad_(), weighed[:, rows]
        counts = counts.detach().requires_grad_(graph)
        noised = t, noise.to(self.pictures.x0)
        with sdpa_kernel(SDPBackend.MATH):  # the others cannot be derived twice
            errors = squared_errors(
                self.denoiser, self.adapters, leaf, (self.pictures, rows), noised
            )
            loss = (errors * counts).sum() / len(rows)
            (found,) = torch.autograd.grad(loss, leaf, create_graph=graph)
        return found, leaf, counts

    def train(self, weighed: Tensor) -> Iterator[State]:
        """The states of m trainings before the first step and after each."""
        state = self.begin(len(weighed))
        yield state
        for _ in range(self.draws.steps):
            state = state.after(self.gradient(state, weighed)[0])
            yield state

    def derivative(self, states: Sequence[State], ends: Tensor) -> Tensor:
        """Of k outputs by each image's weight, at 1, step by step: [steps, k, n].

        The sum over the last s steps is the derivative of the training as from there; over all, of
        the whole. Where a second moment is zero its root has no slope, and none is taken.

        Args:
            states: before each step, of one training.
            ends: the outputs' gradients by the final weights, [k, p].
        """
        k, n = len(ends), len(self.pictures.x0)
        by_weights, by_first, by_second = ends, torch.zeros_like(ends), torch.zeros_like(ends)
        found = torch.zeros(self.draws.steps, k, n, dtype=ends.dtype)
        (one, two), every = BETAS, torch.ones(k, n, dtype=ends.dtype)
        for step in reversed(range(self.draws.steps)):
            before = states[step]
            now = State(before.weights.repeat(k, 1), before.first, before.second, step)
            g, leaf, counts = self.gradient(now, every, graph=True)
            after = before.after(g[:1].detach())
            root = (after.second / (1 - two ** (step + 1))).sqrt()
            slope = -RATE / (1 - one ** (step + 1)) / (root + EPS)
            by_first = by_first + by_weights * slope
            bend = -slope * after.first / (root + EPS) / (2 * root * (1 - two ** (step + 1)))
            by_second = by_second + by_weights * bend.where(root > 0, 0)
            by_gradient = (1 - one) * by_first + 2 * (1 - two) * g.detach() * by_second
            back, weighed = torch.autograd.grad((g * by_gradient).sum(), [leaf, counts])
            rows = self.draws.at(step, self.pictures)[0]
            found[step][:, rows] = weighed
            by_weights = by_weights * (1 - RATE * DECAY) + back
            by_first, by_second = one * by_first, two * by_second
        return found
