"""The type of a model's numbers."""

from __future__ import annotations

from typing import Any

import torch

from headwater.errors import ParameterError


def require_dtype(dtype: Any) -> None:
    """Refuse what is no type of weights.

    Raises:
        ParameterError: `dtype` is no floating-point type of torch.
    """
    if not isinstance(dtype, torch.dtype):
        known = isinstance(getattr(torch, str(dtype), None), torch.dtype)
        mend = f"torch.{dtype}" if known else "torch.float32"
        raise ParameterError(f"dtype {dtype!r} is a {type(dtype).__name__}: give {mend}")
    if not dtype.is_floating_point:
        raise ParameterError(f"dtype {dtype} is no floating-point type: give torch.float32")


def bearable(part: Any, dtype: torch.dtype) -> torch.dtype:
    """The type, or float32 for an autoencoder whose numbers float16 does not hold (SDXL's)."""
    config = getattr(part, "config", None)
    too_large = dtype == torch.float16 and getattr(config, "force_upcast", False)
    return torch.float32 if too_large else dtype
