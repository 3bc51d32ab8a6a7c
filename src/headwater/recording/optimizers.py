"""Steps of torch's optimizers as functions, which can be derived.

All numbers of a training are one vector; those of one group of parameters are a part of it, and
have options of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import ParameterError


class State(NamedTuple):
    """Between two steps.

    Attributes:
        weights: of all parameters.
        moments: what the optimizer keeps of each, in the order of its rule.
        count: steps made.
    """

    weights: Float[Tensor, " p"]
    moments: tuple[Float[Tensor, " p"], ...]
    count: int


class Rule(NamedTuple):
    """How an optimizer makes a step.

    Attributes:
        moments: their names in its state.
        options: of its groups that a step depends on.
        unknown: options that must be off.
        step: weights, moments, gradient, steps made before, options -> weights, moments.
    """

    moments: tuple[str, ...]
    options: tuple[str, ...]
    unknown: tuple[str, ...]
    step: Callable[
        [Tensor, Sequence[Tensor], Tensor, int, Mapping[str, Any]], tuple[Tensor, Sequence[Tensor]]
    ]


def _adam(
    weights: Tensor, moments: Sequence[Tensor], gradient: Tensor, count: int, o: Mapping[str, Any]
) -> tuple[Tensor, Sequence[Tensor]]:
    """Kingma & Ba 2015; weight decay is part of the gradient."""
    return _adam_step(weights, moments, gradient + o["weight_decay"] * weights, count, o)


def _adamw(
    weights: Tensor, moments: Sequence[Tensor], gradient: Tensor, count: int, o: Mapping[str, Any]
) -> tuple[Tensor, Sequence[Tensor]]:
    """Loshchilov & Hutter 2019; weights decay by themselves."""
    kept = weights * (1 - o["lr"] * o["weight_decay"])
    return _adam_step(kept, moments, gradient, count, o)


def _adam_step(
    weights: Tensor, moments: Sequence[Tensor], gradient: Tensor, count: int, o: Mapping[str, Any]
) -> tuple[Tensor, Sequence[Tensor]]:
    one, two = o["betas"]
    first = one * moments[0] + (1 - one) * gradient
    second = two * moments[1] + (1 - two) * gradient.square()
    size = _root(second / (1 - two ** (count + 1))) + o["eps"]
    return weights - o["lr"] / (1 - one ** (count + 1)) * first / size, (first, second)


def _root(x: Tensor) -> Tensor:
    """The square root, whose slope at 0 (a number that never had a gradient) is taken for 0."""
    return torch.where(x > 0, x, 1).sqrt() * (x > 0)


def _sgd(
    weights: Tensor, moments: Sequence[Tensor], gradient: Tensor, count: int, o: Mapping[str, Any]
) -> tuple[Tensor, Sequence[Tensor]]:
    gradient, momentum = gradient + o["weight_decay"] * weights, o["momentum"]
    kept = gradient if count == 0 else momentum * moments[0] + (1 - o["dampening"]) * gradient
    move = gradient + momentum * kept if o["nesterov"] else kept
    return weights - o["lr"] * (move if momentum else gradient), (kept,)


_ADAM = ("lr", "betas", "eps", "weight_decay")
RULES: dict[type[torch.optim.Optimizer], Rule] = {
    torch.optim.Adam: Rule(("exp_avg", "exp_avg_sq"), _ADAM, ("amsgrad", "maximize"), _adam),
    torch.optim.AdamW: Rule(("exp_avg", "exp_avg_sq"), _ADAM, ("amsgrad", "maximize"), _adamw),
    torch.optim.SGD: Rule(
        ("momentum_buffer",),
        ("lr", "momentum", "dampening", "weight_decay", "nesterov"),
        ("maximize",),
        _sgd,
    ),
}
NAMED = {kind.__name__: rule for kind, rule in RULES.items()}


def rule_of(optimizer: torch.optim.Optimizer) -> Rule:
    """How it makes a step.

    Raises:
        ParameterError: this is not known of it, or of an option of it.
    """
    rule = RULES.get(type(optimizer))
    if rule is None:
        raise ParameterError(
            f"trainings by {type(optimizer).__module__}.{type(optimizer).__name__} cannot be "
            f"derived: take torch.optim's {', '.join(NAMED)}"
        )
    for name in rule.unknown:
        if any(group.get(name) for group in optimizer.param_groups):
            raise ParameterError(f"trainings with {name}=True cannot be derived: leave it out")
    return rule


def options_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What each group's next step depends on, as JSON takes it."""
    names = rule_of(optimizer).options
    return [{name: _plain(group[name]) for name in names} for group in optimizer.param_groups]


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool) else float(value)


def stepped(
    rule: Rule,
    state: State,
    gradient: Float[Tensor, " p"],
    groups: Sequence[tuple[int, Mapping[str, Any]]],
) -> State:
    """The state after a step.

    Args:
        groups: how many numbers each has, and its options.
    """
    sizes = [size for size, _ in groups]
    parts = (part.split(sizes) for part in (state.weights, gradient, *state.moments))
    found = [
        rule.step(weights, moments, slope, state.count, options)
        for (_, options), weights, slope, *moments in zip(groups, *parts, strict=True)
    ]
    moments = [torch.cat(each) for each in zip(*(made for _, made in found), strict=True)]
    return State(torch.cat([weights for weights, _ in found]), tuple(moments), state.count + 1)


def clipped(gradient: Float[Tensor, " p"], norm: float | None) -> Float[Tensor, " p"]:
    """As `torch.nn.utils.clip_grad_norm_` leaves it; None for as it is."""
    if norm is None:
        return gradient
    return gradient * (norm / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1)
