"""Train a small model: AdamW, warm-up and cosine decay, EMA, resumable, on CPU or CUDA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from headwater.errors import ModelError, first_line

# What one step is given by chance: tensors on the CPU, of the same shapes at every step. The
# generator is seeded by the seed and the step: a resumed run sees the same batches.
Draw = Callable[[torch.Generator], Sequence[Tensor]]
Loss = Callable[..., Tensor]  # of what was drawn, by then on the model's device
Passes = Callable[..., Tensor]  # the same, and leaves the gradients in the parameters


def fit(
    model: nn.Module,
    draw: Draw,
    loss: Loss,
    checkpoint: Path,
    *,
    steps: int,
    learning_rate: float,
    seed: int = 0,
    ema_decay: float = 0.999,
    save_every: int = 500,
    stop: int | None = None,
    begun: int = 0,
) -> float:
    """Train `model` in place and leave the moving average of its weights in it.

    The state is written to `checkpoint` every `save_every` steps, under a temporary name first; a
    call that finds one there goes on from it. `stop` leaves the schedule of `steps` early. Returns
    the mean loss of the last hundred steps.

    Args:
        draw: makes what a step depends on besides the weights.
        loss: a function of that. On a GPU it must not ask the CPU anything (no `.item()`, no shape
            that depends on values): the step is recorded.
        begun: steps of trainings before this one, whose draws are not to come again.

    Raises:
        ModelError: it does.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    device = parameters[0].device
    # One kernel for all parameters: starting kernels is what small models spend a GPU's time on.
    optimizer = torch.optim.AdamW(
        parameters, betas=(0.9, 0.99), weight_decay=1e-4, fused=device.type == "cuda"
    )
    average = [parameter.detach().clone() for parameter in parameters]
    first = _load(checkpoint, names, parameters, average, optimizer)
    model.train()
    passes: Passes | None = None
    recent: list[Tensor] = []
    last = steps if stop is None else stop
    bar = tqdm(range(first, last), desc=checkpoint.stem, initial=first, total=last, delay=2)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, steps)
        chance = torch.Generator().manual_seed(seed * 1_000_003 + begun + step)
        drawn = [each.to(device, non_blocking=True) for each in draw(chance)]
        passes = passes or _passes(loss, parameters, drawn)
        value = passes(*drawn)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        # Early averages would remember the random start: the horizon grows with the step.
        decay = min(ema_decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(average, parameters, 0)
        recent = [*recent[-99:], value]
        if step % 50 == 0:
            bar.set_postfix(loss=f"{_mean(recent):.4f}")
        if (step + 1) % save_every == 0 or step + 1 == last:
            _save(checkpoint, step + 1, names, parameters, average, optimizer)
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
    model.eval()
    return _mean(recent)


def _passes(loss: Loss, parameters: Sequence[nn.Parameter], drawn: Sequence[Tensor]) -> Passes:
    """Forward and backward.

    On a GPU both are recorded once and replayed: small models spend most of a step starting kernels
    one by one.
    """

    def one_by_one(*drawn: Tensor) -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        value = loss(*drawn)
        value.backward()
        return value.detach()

    device = drawn[0].device
    if device.type != "cuda":
        return one_by_one
    with torch.cuda.device(device):
        return _recorded(one_by_one, drawn)


def _recorded(passes: Passes, drawn: Sequence[Tensor]) -> Passes:
    """The same as a CUDA graph.

    Raises:
        ModelError: it cannot be recorded.
    """
    held = [each.clone() for each in drawn]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(aside):
        for _ in range(3):  # libraries choose their kernels by trying them
            passes(*held)
        try:
            with torch.cuda.graph(graph, stream=aside):
                value = passes(*held)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ModelError(
                f"this model's training cannot be recorded on a GPU ({first_line(error)}): train "
                "it with --device cpu"
            ) from error
    torch.cuda.current_stream().wait_stream(aside)

    def replayed(*drawn: Tensor) -> Tensor:
        for here, new in zip(held, drawn, strict=True):
            here.copy_(new)
        graph.replay()
        return value.clone()

    return replayed


def _mean(losses: list[Tensor]) -> float:
    return torch.stack(losses).mean().item() if losses else 0.0


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first 3%, then a cosine down to zero."""
    progress = (step + 1) / steps
    if progress < 0.03:
        return progress / 0.03
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.03) / 0.97))


def _save(path: Path, step: int, names, parameters, average, optimizer) -> None:
    tensors = {}
    for name, parameter, mean in zip(names, parameters, average, strict=True):
        state = optimizer.state[parameter]
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        tensors[f"average/{name}"] = mean.contiguous()
        tensors[f"first_moment/{name}"] = state["exp_avg"].contiguous()
        tensors[f"second_moment/{name}"] = state["exp_avg_sq"].contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"step": str(step)})
    part.replace(path)


@torch.no_grad()
def _load(path: Path, names, parameters, average, optimizer) -> int:
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        for name, parameter, mean in zip(names, parameters, average, strict=True):
            parameter.copy_(file.get_tensor(f"weight/{name}"))
            mean.copy_(file.get_tensor(f"average/{name}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": _like(parameter, file.get_tensor(f"first_moment/{name}")),
                "exp_avg_sq": _like(parameter, file.get_tensor(f"second_moment/{name}")),
            }
    return step


def _like(parameter: Tensor, values: Tensor) -> Tensor:
    """Where the parameter is, and laid out in memory as it is."""
    return torch.empty_like(parameter).copy_(values)
