"""Steps as functions are those that torch makes, and have the slopes that they should."""

import pytest
import torch

from headwater.errors import ParameterError
from headwater.recording.optimizers import (
    RULES,
    State,
    clipped,
    options_of,
    rule_of,
    stepped,
)

KINDS = [
    (torch.optim.Adam, dict(lr=0.1, weight_decay=0.2)),
    (torch.optim.AdamW, dict(lr=0.1, weight_decay=0.2, betas=(0.8, 0.9))),
    (torch.optim.SGD, dict(lr=0.1)),
    (torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.2)),
    (torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True)),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_steps_are_those_of_torch(kind, options):
    """Of two groups with options of their own, whose learning rate changes."""
    start = torch.randn(5, dtype=torch.float64)
    parts = [torch.nn.Parameter(part.clone()) for part in start.split([2, 3])]
    groups = [{"params": [parts[0]]}, {"params": [parts[1]], "weight_decay": 0.05}]
    optimizer, rule = kind(groups, **options), RULES[kind]
    state = State(start, tuple(torch.zeros(5, dtype=torch.float64) for _ in rule.moments), 0)
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        gradient = torch.randn(5, dtype=torch.float64)
        parts[0].grad, parts[1].grad = gradient.split([2, 3])
        own = list(zip([2, 3], options_of(optimizer), strict=True))
        optimizer.step()
        state = stepped(rule, state, gradient, own)
        torch.testing.assert_close(state.weights, torch.cat([p.detach() for p in parts]))
    assert state.count == 5


def test_gradients_are_clipped_as_torch_does():
    for size in (0.01, 10.0):
        parameter = torch.nn.Parameter(torch.zeros(4))
        parameter.grad = size * torch.randn(4)
        ours = clipped(parameter.grad.clone(), 0.5)
        torch.nn.utils.clip_grad_norm_([parameter], 0.5)
        torch.testing.assert_close(ours, parameter.grad)
    assert clipped(parameter.grad, None) is parameter.grad


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_number_without_a_gradient_yet_has_no_slope(kind):
    """The root of a moment of zero would have an infinite one."""
    zeros = torch.zeros(2, dtype=torch.float64)
    gradient = torch.tensor([0.0, 0.5], dtype=torch.float64, requires_grad=True)
    options = dict(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    state = stepped(RULES[kind], State(zeros, (zeros, zeros), 0), gradient, [(2, options)])
    (slope,) = torch.autograd.grad(state.weights.sum(), gradient)
    assert slope.isfinite().all()
    assert state.weights[0] == 0


@pytest.mark.parametrize(
    ("optimizer", "named"),
    [(torch.optim.RMSprop, "RMSprop"), (torch.optim.Adagrad, "take torch.optim's Adam")],
)
def test_others_are_refused(optimizer, named):
    with pytest.raises(ParameterError, match=named):
        rule_of(optimizer([torch.nn.Parameter(torch.zeros(1))]))


def test_options_that_change_a_step_are_refused():
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(ParameterError, match="amsgrad=True"):
        rule_of(torch.optim.AdamW(parameter, amsgrad=True))
    with pytest.raises(ParameterError, match="maximize=True"):
        rule_of(torch.optim.SGD(parameter, maximize=True))
