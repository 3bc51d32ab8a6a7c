"""A recorded training made again: its gradients, and the states between those that were kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from headwater.errors import MismatchError
from headwater.recording.optimizers import State, clipped, stepped
from headwater.recording.recording import Recording, Step

# What wrappers put before a parameter's name, and PEFT's name of an adapter inside it.
_WRAPPED = re.compile(r"^((module|_orig_mod|base_model\.model)\.)+")
_ADAPTER = re.compile(r"(lora_(?:A|B|magnitude_vector))\.[^.]+")
# By how much gradients and steps may come out otherwise than they were recorded.
TOLERATED = 0.1


class Segment(NamedTuple):
    """Steps from one kept state to the next, made again.

    Attributes:
        start: the first step.
        states: before each step, [stop - start].
        gradient_error: ||g - recorded|| / ||recorded|| of the first step's gradient.
        drift: ||w - recorded|| over how far the weights moved, at the end.
    """

    start: int
    states: list[State]
    gradient_error: float
    drift: float


@dataclass(frozen=True)
class Replay:
    """A recorded training, and the network to make it again with.

    Attributes:
        network: with the adapters that were trained, on its device; their numbers do not matter.
    """

    recording: Recording
    network: nn.Module

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by their names in this network.

        Raises:
            MismatchError: it lacks one of them.
        """
        known: dict[str, list[str]] = {}
        for name, _ in self.network.named_parameters():
            known.setdefault(_plain(name), []).append(name)
        recording = self.recording
        names = [known.get(_plain(name), []) for name in recording.names]
        for name, found, size in zip(recording.names, names, recording.sizes, strict=True):
            if len(found) != 1 or self.network.get_parameter(found[0]).numel() != size:
                raise MismatchError(
                    f"{recording.folder} recorded {name} of {size} numbers, and this model "
                    f"has {'several' if len(found) > 1 else 'no such'} parameter: give the model "
                    "and the adapters that were trained"
                )
        return {name: self.network.get_parameter(name) for (name,) in names}

    @property
    def device(self) -> torch.device:
        """Where it is made again."""
        return next(iter(self.parameters.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """What states and gradients are computed in: that of the parameters, or float32."""
        return torch.promote_types(self._given, torch.float32)

    @property
    def _given(self) -> torch.dtype:
        """What the network is given: the type of its numbers."""
        return next(iter(self.parameters.values())).dtype

    def placed(self, state: State) -> State:
        """A state as kept, where it is computed with."""
        place = {"device": self.device, "dtype": self.dtype}
        return State(
            state.weights.to(**place), tuple(m.to(**place) for m in state.moments), state.count
        )

    def loss(
        self, step: Step, weights: Float[Tensor, " p"], counts: Float[Tensor, " r"]
    ) -> Float[Tensor, ""]:
        """What a step goes down.

        Args:
            counts: what each picture counts, one after the other through all batches.
        """
        sizes = [len(batch.ids) for batch in step.batches]
        parts = [
            (self._errors(batch.args, batch.kwargs, batch.target, weights) * count * own).mean()
            for batch, count in zip(step.batches, counts.split(sizes), strict=True)
            for own in [1 if batch.weights is None else batch.weights.to(counts)]
        ]
        return torch.stack(parts).mean()

    def _errors(
        self, args: Any, kwargs: Any, target: Tensor, weights: Float[Tensor, " p"]
    ) -> Float[Tensor, " b"]:
        """The mean squared error of each output with these weights."""
        parts = weights.split(self.recording.sizes)
        own = {
            name: part.view_as(parameter)
            for (name, parameter), part in zip(self.parameters.items(), parts, strict=True)
        }
        given = self._moved((args, kwargs))
        out = torch.func.functional_call(self.network, own, *given)
        out = out if isinstance(out, Tensor) else out[0]  # a tuple, or an output of diffusers
        target = target.to(weights)
        out = out[:, : target.shape[1]]  # of a network that puts out its variance too
        return (out.to(weights) - target).square().flatten(1).mean(1)

    def _moved(self, value: Any) -> Any:
        """Nested values on the device; numbers that are not whole in the network's type."""
        if isinstance(value, Tensor):
            return value.to(self.device, self._given if value.is_floating_point() else None)
        if isinstance(value, Mapping):
            return {name: self._moved(each) for name, each in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(map(self._moved, value))
        return value

    def gradient(
        self, step: Step, weights: Tensor, counts: Tensor | None = None, graph: bool = False
    ) -> Float[Tensor, " p"]:
        """Of a step's loss by its weights, before it is clipped.

        Args:
            counts: as of `loss`; None for 1.
            graph: whether to keep that of the gradient; weights and counts are leaves then.
        """
        if counts is None:
            counts = weights.new_ones(sum(len(batch.ids) for batch in step.batches))
        leaf = weights if graph else weights.detach().requires_grad_()
        # the faster kernels of attention have no second derivative
        kernels = sdpa_kernel(SDPBackend.MATH) if graph else nullcontext()
        with torch.enable_grad(), kernels:
            loss = self.loss(step, leaf, counts)
            (found,) = torch.autograd.grad(loss, leaf, create_graph=graph)
        return found

    def after(self, state: State, step: Step, gradient: Float[Tensor, " p"]) -> State:
        """The state after a step with this gradient."""
        groups = list(zip(self.recording.groups, step.options, strict=True))
        short = clipped(gradient, self.recording.max_grad_norm)
        return stepped(self.recording.rule, state, short, groups)

    def segments(self) -> list[tuple[int, int]]:
        """(first, last + 1) of the steps between states that were kept."""
        kept = self.recording.kept
        return list(pairwise(kept))

    def segment(self, start: int, stop: int, steps: Sequence[Step]) -> Segment:
        """The steps from one kept state to the next, made again.

        Raises:
            MismatchError: they come out otherwise than recorded.
        """
        first, after = self.recording.state(start), self.recording.state(stop)
        assert first is not None and after is not None, "segments are between kept states"
        (kept, recorded), end = first, self.placed(after[0]).weights
        state, states, error = self.placed(kept), [], 0.0
        for step in steps:
            states.append(state)
            gradient = self.gradient(step, state.weights)
            if len(states) == 1:
                short = clipped(gradient, self.recording.max_grad_norm)
                error = _relative(short, recorded.to(short), recorded.norm())
            state = self.after(state, step, gradient)
        drift = _relative(state.weights, end, (end - states[0].weights).norm())
        for what, wrong in ((f"the gradient of step {start}", error), (f"step {stop}", drift)):
            if wrong > TOLERATED:
                raise MismatchError(
                    f"{what} of {self.recording.folder} comes out {wrong:.0%} otherwise than it "
                    "was recorded: is the loss weighed, or not the mean squared error (weights=), "
                    "are gradients clipped (max_grad_norm=), are adapters of another scale "
                    "(lora_alpha), is this another model?"
                )
        return Segment(start, states, error, drift)


def _plain(name: str) -> str:
    """A parameter's name without what wrappers and adapters are called."""
    return _ADAPTER.sub(r"\1", _WRAPPED.sub("", name))


def _relative(found: Tensor, true: Tensor, size: Tensor) -> float:
    return float((found - true).norm() / size.clamp(min=torch.finfo(size.dtype).tiny))
