r"""The noise schedule: how much of x0 and of noise x_t holds, and what is predicted of them.

    x_t = a x0 + s e,        out predicts p x0 + q e

at each integer timestep t. From both follow, with D = a q - s p,

    x0hat = (q x_t - s out) / D,        ehat = (a out - p x_t) / D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwater.errors import ModelError, ParameterError

# Where on the schedule: all rows of a batch, or, as trainers draw it, each row by itself.
Timestep = int | Int[Tensor, " b"]

# Kind of prediction -> (p, q), of a and s, which are numbers or tensors.
TARGETS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "epsilon": lambda a, s: (0.0, 1.0),
    "v_prediction": lambda a, s: (-s, a),
    "sample": lambda a, s: (1.0, 0.0),
    "flow": lambda a, s: (-1.0, 1.0),
}

# Some schedules end in pure noise, where x0hat of a predicted noise would be 0/0; Euler's floor is
# 2^-24 too.
_FLOOR = 2**-24


@dataclass(frozen=True)
class Schedule:
    """a and s at each timestep, in float64 on the CPU, and a name of `TARGETS`.

    Raises:
        ModelError: there is no such prediction.

    >>> schedule = preserving(torch.tensor([0.75, 0.25]), "v_prediction")
    >>> [round(rate, 3) for rate in schedule.rates(1)]
    [0.5, 0.866]
    """

    a: Float[Tensor, " t"]
    s: Float[Tensor, " t"]
    prediction: str

    def __post_init__(self) -> None:
        if self.prediction not in TARGETS:
            raise ModelError(
                f"prediction type {self.prediction!r} is not one of {', '.join(TARGETS)}"
            )

    def __len__(self) -> int:
        return len(self.a)

    # --- at a timestep ----------------------------------------------------------------------

    def rates(self, t: int) -> tuple[float, float]:
        """(a, s)."""
        return self.a[t].item(), self.s[t].item()

    def target(self, t: int) -> tuple[float, float]:
        """(p, q)."""
        p, q = TARGETS[self.prediction](*self.rates(t))
        return p, q

    def determinant(self, t: int) -> float:
        """D = a q - s p: negative where x0 itself is predicted, else positive."""
        (a, s), (p, q) = self.rates(t), self.target(t)
        return a * q - s * p

    def noised(self, x0: Tensor, noise: Tensor, t: int) -> Tensor:
        """x_t = a x0 + s e."""
        a, s = self.rates(t)
        return a * x0 + s * noise

    def asked(self, x0: Tensor, noise: Tensor, t: int) -> Tensor:
        """What the output should be: p x0 + q e."""
        p, q = self.target(t)
        return p * x0 + q * noise

    def clean(self, out: Tensor, xt: Tensor, t: int) -> Tensor:
        """x0hat, the clean sample that the output implies."""
        _, s = self.rates(t)
        _, q = self.target(t)
        return (q * xt - s * out) / self.determinant(t)

    def noise(self, out: Tensor, xt: Tensor, t: int) -> Tensor:
        """ehat, the noise that the output implies."""
        a, _ = self.rates(t)
        p, _ = self.target(t)
        d = self.determinant(t)
        return a / d * out - p / d * xt  # to the bit `out`, where that is what is predicted

    def moved(self, out: Tensor, xt: Tensor, t: int, to: int) -> Tensor:
        """The deterministic path at timestep `to`: a' x0hat + s' ehat (DDIM, Euler)."""
        return self.noised(self.clean(out, xt, t), self.noise(out, xt, t), to)

    # --- as a whole -------------------------------------------------------------------------

    @property
    def alpha_bar(self) -> Float[Tensor, " t"]:
        """The share of signal power, a^2 / (a^2 + s^2)."""
        return self.a.square() / (self.a.square() + self.s.square())

    def evenly_spaced(self, count: int) -> list[int]:
        """`count` of its timesteps, ascending, the last one the noisiest."""
        return evenly_spaced(count, len(self))


def preserving(alpha_bar: Float[Tensor, " t"], prediction: str) -> Schedule:
    """Of a model that keeps the variance: a^2 = alpha_bar, s^2 = 1 - alpha_bar.

    Raises:
        ModelError: there is no such prediction.
    """
    # in the float32 of diffusers' schedulers first: what is too small for it is the floor
    share = alpha_bar.detach().cpu().float().clamp_min(_FLOOR).double()
    return Schedule(share.sqrt(), (1 - share).sqrt(), prediction)


def flow(sigmas: Sequence[float] | Float[Tensor, " t"]) -> Schedule:
    """Of a model of straight paths from x0 to noise: s = sigma, a = 1 - sigma, ascending."""
    s = torch.as_tensor(sigmas, dtype=torch.float64).detach().cpu()
    return Schedule(1 - s, s, "flow")


def evenly_spaced(count: int, train_timesteps: int = 1000) -> list[int]:
    """`count` timesteps, ascending, the last one the noisiest: 99, 199, ..., 999."""
    if not 1 <= count <= train_timesteps:
        raise ParameterError(
            f"--timesteps {count} must lie between 1 and {train_timesteps}, the model's own"
        )
    return [(i + 1) * train_timesteps // count - 1 for i in range(count)]
