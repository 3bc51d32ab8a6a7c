r"""The noise schedule: how much of x0 and of noise x_t holds, and what is predicted of them.

xt = a x0 + s eps,    a = sqrt(alpha_bar[t]),  s = sqrt(1 - alpha_bar[t])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import ModelError, ParameterError

# Kind of prediction -> eps, of the network's output, xt, a and s.
PREDICTIONS: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    "epsilon": lambda out, xt, a, s: out,
    "v_prediction": lambda out, xt, a, s: a * out + s * xt,
    "sample": lambda out, xt, a, s: (xt - a * out) / s,
}

# Some schedules end in pure noise, where x0hat would be 0/0; Euler's floor is 2^-24 too.
_FLOOR = 2**-24


@dataclass(frozen=True)
class Schedule:
    """alpha_bar, and a name of `PREDICTIONS`.

    Raises:
        ModelError: there is no such prediction.
    """

    alpha_bar: Float[Tensor, " t"]
    prediction: str

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ModelError(
                f"prediction type {self.prediction!r} is not one of {', '.join(PREDICTIONS)}"
            )
        floored = self.alpha_bar.to(torch.float32).clamp_min(_FLOOR)
        object.__setattr__(self, "alpha_bar", floored)

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def to(self, device: torch.device) -> Schedule:
        """The same on a device."""
        return replace(self, alpha_bar=self.alpha_bar.to(device))

    def signal_noise(self, t: int) -> tuple[float, float]:
        """(a, s) at timestep t."""
        alpha_bar = self.alpha_bar[t].item()
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5

    def noise(self, x0: Tensor, eps: Tensor, t: int) -> Tensor:
        """Noisy xt = a x0 + s eps."""
        a, s = self.signal_noise(t)
        return a * x0 + s * eps

    def clean(self, xt: Tensor, t: int, eps: Tensor) -> Tensor:
        """x0hat that eps implies: (xt - s eps) / a."""
        a, s = self.signal_noise(t)
        return (xt - s * eps) / a

    def eps(self, out: Tensor, xt: Tensor, t: int) -> Tensor:
        """The noise that the network's output implies."""
        return PREDICTIONS[self.prediction](out, xt, *self.signal_noise(t))

    def evenly_spaced(self, count: int) -> list[int]:
        """`count` of its timesteps, ascending, the last one the noisiest."""
        return evenly_spaced(count, len(self))


def evenly_spaced(count: int, train_timesteps: int = 1000) -> list[int]:
    """`count` indices into alpha_bar, ascending, the last one the noisiest: 99, 199, ..., 999."""
    if not 1 <= count <= train_timesteps:
        raise ParameterError(
            f"--timesteps {count} must lie between 1 and {train_timesteps}, the model's own"
        )
    return [(i + 1) * train_timesteps // count - 1 for i in range(count)]
