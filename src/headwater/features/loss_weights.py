"""How much each timestep counted in the training of a model, where not all counted alike.

A training image's row is a mean over probes, and a training loss a mean over timesteps. Where a
trainer weighs the loss, or draws some timesteps more often than others, so does the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from headwater.errors import ParameterError
from headwater.models.schedule import Schedule

GAMMA = 5.0  # of min-SNR: the paper's, and the default of diffusers' scripts


def _uniform(schedule: Schedule, t: int) -> float:
    return 1.0


def _min_snr(schedule: Schedule, t: int) -> float:
    """min(SNR, gamma) of the error in x0 (Hang et al. 2023, section 3.4), of the output's error.

    The error in x0 is s/D times that of the output, so it is min(SNR, gamma) / SNR where noise is
    predicted, and min(SNR, gamma) / (SNR + 1) of v.
    """
    a, s = schedule.rates(t)
    return min((a / s) ** 2, GAMMA) * (s / schedule.determinant(t)) ** 2


def _logit_normal(schedule: Schedule, t: int) -> float:
    """The density of timesteps drawn as sigmoid(N(0, 1)) (Esser et al. 2024, equation 19)."""
    u = (t + 0.5) / len(schedule)
    logit = math.log(u / (1 - u))
    return math.exp(-(logit**2) / 2) / (math.sqrt(2 * math.pi) * u * (1 - u))


def _shapes_first(schedule: Schedule, t: int) -> float:
    """Of the bundled model: more where noise hides the shape, less where only texture is left.

    The loss of x0 rather than of the noise, at most 5 times the usual one, times min-SNR.
    """
    a, s = schedule.rates(t)
    return min(1 / a**2, 5.0) * min(GAMMA * (s / a) ** 2, 1.0)


LOSS_WEIGHTS: dict[str, Callable[[Schedule, int], float]] = {
    "uniform": _uniform,
    "min-snr": _min_snr,
    "logit-normal": _logit_normal,
    "shapes-first": _shapes_first,
}


def require_loss_weights(name: str) -> None:
    """Refuse another name.

    Raises:
        ParameterError: it is none of `LOSS_WEIGHTS`.
    """
    if name not in LOSS_WEIGHTS:
        known = ", ".join(LOSS_WEIGHTS)
        raise ParameterError(f"--loss-weights {name!r} is not one of {known}")


def loss_weights(name: str, schedule: Schedule, timesteps: Sequence[int]) -> tuple[float, ...]:
    """The weights of these timesteps, whose mean is 1.

    >>> from headwater.models.schedule import flow
    >>> loss_weights("uniform", flow([0.25, 0.5, 0.75]), [0, 2])
    (1.0, 1.0)
    """
    weights = [LOSS_WEIGHTS[name](schedule, t) for t in timesteps]
    mean = sum(weights) / len(weights)
    return tuple(weight / mean for weight in weights)
