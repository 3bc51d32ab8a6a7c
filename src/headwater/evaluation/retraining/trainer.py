"""Train a small model: AdamW, warm-up and cosine decay, EMA, resumable, on CPU or CUDA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from headwater.errors import ModelError, first_line
from headwater.storage.files import renamed

# What one step is given by chance: tensors on the CPU, of the same shapes at every step.
Draw = Callable[[torch.Generator], Sequence[Tensor]]
Loss = Callable[..., Tensor]  # of what was drawn, by then on the model's device
Passes = Callable[..., Tensor]  # the same, and leaves the gradients in the parameters


@dataclass(frozen=True)
class FitOptions:
    """How a model is trained.

    Attributes:
        steps: of the learning rate's schedule.
        learning_rate: its peak.
        seed: of the draws; the weights are the caller's.
        ema_decay: of the moving average of the weights, which is what is left.
        save_every: steps between checkpoints.
        stop: leaves the schedule of `steps` early, after so many.
        begun: steps of trainings before this one, whose draws are not to come again.
    """

    steps: int
    learning_rate: float
    seed: int = 0
    ema_decay: float = 0.999
    save_every: int = 500
    stop: int | None = None
    begun: int = 0

    @property
    def last(self) -> int:
        """How many steps are taken."""
        return self.steps if self.stop is None else self.stop

    def rate(self, step: int) -> float:
        """The learning rate: linear warm-up over the first 3%, then a cosine down to zero."""
        progress = (step + 1) / self.steps
        if progress < 0.03:
            return self.learning_rate * (progress / 0.03)
        return self.learning_rate * (0.5 * (1 + math.cos(math.pi * (progress - 0.03) / 0.97)))

    def generator(self, step: int) -> torch.Generator:
        """What a step draws with: a resumed run sees the same batches."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.begun + step)

    def decay(self, step: int) -> float:
        """Of the average. Early ones would remember the random start: the horizon grows."""
        return min(self.ema_decay, (1 + step) / (10 + step))


@dataclass(frozen=True)
class TrainingState:
    """All that a checkpoint holds: weights, their average, AdamW's moments."""

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    average: list[Tensor]
    optimizer: torch.optim.AdamW

    @classmethod
    def of(cls, model: nn.Module) -> TrainingState:
        """The state before the first step."""
        names, parameters = zip(*model.named_parameters(), strict=True)
        # One kernel for all: starting kernels is what small models spend a GPU's time on.
        fused = parameters[0].device.type == "cuda"
        optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-4, fused=fused)
        average = [parameter.detach().clone() for parameter in parameters]
        return cls(names, parameters, average, optimizer)

    def step(self, rate: float, decay: float) -> None:
        """One step by the gradients that are there, and one of the average."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        get_ema_multi_avg_fn(decay)(self.average, list(self.parameters), 0)

    @torch.no_grad()
    def leave_average(self) -> None:
        """Put the average in the place of the weights."""
        for parameter, mean in zip(self.parameters, self.average, strict=True):
            parameter.copy_(mean)


def fit(model: nn.Module, draw: Draw, loss: Loss, checkpoint: Path, options: FitOptions) -> float:
    """Train `model` in place and leave the moving average of its weights in it.

    The state is written to `checkpoint` now and then, under a temporary name first; a call that
    finds one there goes on from it. Returns the mean loss of the last hundred steps.

    Args:
        draw: makes what a step depends on besides the weights.
        loss: a function of that. On a GPU it must not ask the CPU anything (no `.item()`, no shape
            that depends on values): the step is recorded.

    Raises:
        ModelError: it does.
    """
    state = TrainingState.of(model)
    device, last = state.parameters[0].device, options.last
    first = _load(checkpoint, state)
    model.train()
    passes: Passes | None = None
    recent: list[Tensor] = []
    bar = tqdm(range(first, last), desc=checkpoint.stem, initial=first, total=last, delay=2)
    for step in bar:
        drawn = [tensor.to(device, non_blocking=True) for tensor in draw(options.generator(step))]
        passes = passes or _passes(loss, state.parameters, drawn)
        value = passes(*drawn)
        state.step(options.rate(step), options.decay(step))
        recent = [*recent[-99:], value]
        if step % 50 == 0:
            bar.set_postfix(loss=f"{_mean(recent):.4f}")
        if (step + 1) % options.save_every == 0 or step + 1 == last:
            _save(checkpoint, step + 1, state)
    state.leave_average()
    model.eval()
    return _mean(recent)


def _passes(loss: Loss, parameters: Sequence[nn.Parameter], drawn: Sequence[Tensor]) -> Passes:
    """Forward and backward.

    On a GPU both are recorded once and replayed: small models spend most of a step starting kernels
    one by one.
    """

    def run_eagerly(*drawn: Tensor) -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        value = loss(*drawn)
        value.backward()
        return value.detach()

    device = drawn[0].device
    if device.type != "cuda":
        return run_eagerly
    with torch.cuda.device(device):
        return _record(run_eagerly, drawn)


def _record(passes: Passes, drawn: Sequence[Tensor]) -> Passes:
    """The same as a CUDA graph.

    Raises:
        ModelError: it cannot be recorded.
    """
    held = [tensor.clone() for tensor in drawn]
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(side_stream):
        for _ in range(3):  # libraries choose their kernels by trying them
            passes(*held)
        try:
            with torch.cuda.graph(graph, stream=side_stream):
                value = passes(*held)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ModelError(
                f"this model's training cannot be recorded on a GPU ({first_line(error)}): train "
                "it with --device cpu"
            ) from error
    torch.cuda.current_stream().wait_stream(side_stream)

    def replay(*drawn: Tensor) -> Tensor:
        for slot, new in zip(held, drawn, strict=True):
            slot.copy_(new)
        graph.replay()
        return value.clone()

    return replay


def _mean(losses: list[Tensor]) -> float:
    return torch.stack(losses).mean().item() if losses else 0.0


def _save(path: Path, step: int, state: TrainingState) -> None:
    tensors = {}
    for name, parameter, mean in zip(state.names, state.parameters, state.average, strict=True):
        moments = state.optimizer.state[parameter]
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        tensors[f"average/{name}"] = mean.contiguous()
        tensors[f"first_moment/{name}"] = moments["exp_avg"].contiguous()
        tensors[f"second_moment/{name}"] = moments["exp_avg_sq"].contiguous()
    with renamed(path) as part:
        save_file(tensors, part, metadata={"step": str(step)})


@torch.no_grad()
def _load(path: Path, state: TrainingState) -> int:
    """The step that a checkpoint was written after, and its state; 0 where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        for name, parameter, mean in zip(state.names, state.parameters, state.average, strict=True):
            parameter.copy_(file.get_tensor(f"weight/{name}"))
            mean.copy_(file.get_tensor(f"average/{name}"))
            state.optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": _like(parameter, file.get_tensor(f"first_moment/{name}")),
                "exp_avg_sq": _like(parameter, file.get_tensor(f"second_moment/{name}")),
            }
    return step


def _like(parameter: Tensor, values: Tensor) -> Tensor:
    """Where the parameter is, and laid out in memory as it is."""
    return torch.empty_like(parameter).copy_(values)
