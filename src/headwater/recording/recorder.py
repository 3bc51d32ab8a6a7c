"""A training recorded while it runs, by a loop of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from headwater.errors import ParameterError, StoreError
from headwater.recording.optimizers import State, options_of, rule_of
from headwater.recording.recording import (
    Packer,
    drop_steps,
    flat,
    write_facts,
    write_state,
    write_step,
)
from headwater.storage.files import read_json


class Recorder:
    """Records a training, so that what each image did to the model can be derived afterwards.

    The network's inputs are recorded where it is called, a step where the optimizer makes it. The
    loss must be the mean squared error of the network's output from a target, the mean over the
    batch, and over the batches of a step where gradients are accumulated. The method `metagradient`
    asks the recording (docs/recorded-training.md).

    Args:
        folder: a new one. Holds what the network was given (pictures of latents and noise, each
            caption once), and of the trained numbers 16 bytes each at every `every`th step.
        network: whose output is compared with a target, with its adapters.
        optimizer: `torch.optim`'s Adam, AdamW or SGD, of parameters of the network.
        max_grad_norm: what `clip_grad_norm_` is given, if gradients are clipped.
        every: weights and moments are kept at each so manieth step; those between are made again.
        first_step: of a training that its trainer goes on with, how many steps it made before;
            those of the folder from there on are dropped.

    Raises:
        ParameterError: such a training cannot be derived: another optimizer, parameters that are
            not the network's, dropout.
        StoreError: the folder holds something, or not the steps before the first.

    Example:
        # of a training script of diffusers, with three new lines
        recorder = Recorder("my-run", unet, optimizer, max_grad_norm=1.0)
        for batch in loader:
            ...
            predicted = unet(noisy_latents, timesteps, encoded).sample
            recorder.batch(batch["ids"], target)
            loss = F.mse_loss(predicted.float(), target.float())
            ...
        recorder.close()
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float | None = None,
        every: int = 20,
        first_step: int = 0,
    ) -> None:
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps torch's
        self.folder, self.every, self._norm = Path(folder), every, max_grad_norm
        self._steps = self._first = first_step
        self._rule, self._optimizer = rule_of(optimizer), optimizer
        self._names = {id(parameter): name for name, parameter in network.named_parameters()}
        self._require(network)
        self._parameters: list[list[nn.Parameter]] = []
        self._packer, self._call = Packer(), None
        self._batches: list[Any] = []
        self._rows: dict[str, Tensor] = {}
        if first_step:
            self._packer.seen = drop_steps(self.folder, first_step)
        self._hooks = (
            network.register_forward_pre_hook(self._called, with_kwargs=True),
            optimizer.register_step_pre_hook(self._before_step),
        )

    def batch(
        self, ids: Sequence[str | int], target: Tensor, weights: Tensor | None = None
    ) -> None:
        """Say which images the network was just called with, and what it should have put out.

        Args:
            ids: of the images [b], as `TrainingSet` has them, or their row numbers there.
            target: [b, c, *f, h, w], what the output is compared with.
            weights: [b], what each image's mean squared error counts besides (min-SNR, the loss
                of prior images); None for 1.

        Raises:
            ParameterError: the network was not called, or there is not one of each for an image.
        """
        if self._call is None:
            raise ParameterError("the network was not called: Recorder.batch() comes after that")
        rows = len(ids)
        if len(target) != rows or (weights is not None and weights.shape != (rows,)):
            raise ParameterError(
                f"{rows} ids, a target of {tuple(target.shape)}"
                + ("" if weights is None else f" and weights of {tuple(weights.shape)}")
                + ": give one of each for every image of the batch"
            )
        if not self._accumulates():
            self._batches, self._rows = [], {}  # of a step that was skipped
        said = [*self._call, target, weights]
        try:
            packed = [self._packer.packed(each, rows, self._steps, self._rows) for each in said]
        except TypeError as error:
            raise ParameterError(
                f"the network was called with a {error}, which cannot be recorded: give it tensors"
            ) from None
        self._batches.append([list(map(_id, ids)), *packed])
        self._call = None

    def close(self) -> None:
        """End the recording: after the last step."""
        if self._hooks and self._steps:
            state, gradient = self._state()
            write_state(self.folder, self._steps, state, self._rule, torch.zeros_like(gradient))
            self._write_facts(self._steps)
        self._unhook()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        self._unhook()

    # --- while it runs ----------------------------------------------------------------------

    def _called(self, network: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():  # else it makes a picture, or is validated
            self._call = args, kwargs

    def _before_step(self, *_: Any) -> None:
        if not self._batches:
            raise ParameterError(
                "a step that no batch was recorded of: Recorder.batch() comes after each call of "
                "the network"
            )
        if not self._parameters:
            self._begin()
        self._require_gradients()
        if self._steps % self.every == 0 or self._steps == self._first:
            state, gradient = self._state()
            write_state(self.folder, self._steps, state, self._rule, gradient)
        said = {"batches": self._batches, "options": options_of(self._optimizer)}
        write_step(self.folder, self._steps, said, self._rows)
        self._batches, self._rows, self._steps = [], {}, self._steps + 1

    def _begin(self) -> None:
        """Which parameters learn: those that have a gradient at the first step."""
        self._parameters = [
            [each for each in group["params"] if each.grad is not None]
            for group in self._optimizer.param_groups
        ]
        names = [self._names[id(each)] for group in self._parameters for each in group]
        if self._first and names != read_json(self.folder / "run.json")["names"]:
            raise ParameterError(
                f"{self.folder} was recorded of other parameters than learn now: record the "
                "training from its beginning"
            )
        self._write_facts(None)

    def _write_facts(self, steps: int | None) -> None:
        every = [each for group in self._parameters for each in group]
        write_facts(
            self.folder,
            {
                "names": [self._names[id(each)] for each in every],
                "sizes": [each.numel() for each in every],
                "groups": [sum(each.numel() for each in group) for group in self._parameters],
                "optimizer": type(self._optimizer).__name__,
                "max_grad_norm": self._norm,
                "steps": steps,
            },
        )

    def _state(self) -> tuple[State, Tensor]:
        every = [each for group in self._parameters for each in group]
        known = [self._optimizer.state.get(each, {}) for each in every]
        zeros = [torch.zeros_like(each) for each in every]
        moments = tuple(
            flat([_or(own.get(name), zero) for own, zero in zip(known, zeros, strict=True)])
            for name in self._rule.moments
        )
        made = self._steps if "step" not in known[0] else int(known[0]["step"])
        grads = [_or(each.grad, zero) for each, zero in zip(every, zeros, strict=True)]
        return State(flat(every), moments, made), flat(grads)

    def _accumulates(self) -> bool:
        """Whether gradients are there already of earlier batches of the same step."""
        every = (each for group in self._optimizer.param_groups for each in group["params"])
        return any(each.grad is not None and bool(each.grad.any()) for each in every)

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = ()

    # --- what cannot be derived -------------------------------------------------------------

    def _require(self, network: nn.Module) -> None:
        if self.every < 1:
            raise ParameterError(f"every={self.every} must be a number of steps from 1 up")
        if not self._first and self.folder.exists() and any(self.folder.iterdir()):
            raise StoreError(f"{self.folder} holds something: name an empty or a new folder")
        strange = [
            each
            for group in self._optimizer.param_groups
            for each in group["params"]
            if id(each) not in self._names
        ]
        if strange:
            raise ParameterError(
                f"{len(strange)} of the optimizer's parameters are not of the network that is "
                "recorded: train those of one network"
            )
        for name, module in network.named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p and module.training:
                raise ParameterError(
                    f"{name} drops numbers at random (p={module.p:g}), which cannot be made again: "
                    "train without dropout"
                )
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            if torch.distributed.get_world_size() > 1:
                raise ParameterError("a training on several devices cannot be recorded: take one")

    def _require_gradients(self) -> None:
        for group in self._parameters:
            for each in group:
                if each.grad is None:
                    raise ParameterError(
                        f"{self._names[id(each)]} had a gradient at the first step and has none at "
                        f"step {self._steps}, which cannot be derived: train all or none of it"
                    )


def _id(given: Any) -> str | int:
    """A name, or a row number, of whatever type."""
    return given if isinstance(given, str) else int(given)


def _or(given: Tensor | None, otherwise: Tensor) -> Tensor:
    return otherwise if given is None else given
