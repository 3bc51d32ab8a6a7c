"""Which timesteps of a noise schedule are visited."""

from __future__ import annotations

from headwater.errors import ParameterError


def evenly_spaced(count: int, train_timesteps: int = 1000) -> list[int]:
    """`count` indices into alpha_bar, ascending, the last one the noisiest: 99, 199, ..., 999."""
    if not 1 <= count <= train_timesteps:
        raise ParameterError(
            f"--timesteps {count} must lie between 1 and {train_timesteps}, the model's own"
        )
    return [(i + 1) * train_timesteps // count - 1 for i in range(count)]
