"""What a model is, as a digest of all that its numbers depend on, and of nothing else.

Weights, what a configuration says beside them, adapters with their scales. Names of folders,
versions of libraries and the type that weights were saved in are left out: a model that is moved
stays the same model.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

# Of configurations, besides names that begin with an underscore: where, by what and in which type
# a model was saved.
_UNSEEN = ("transformers_version", "dtype", "torch_dtype", "architectures")

# Of a scheduler's configuration, what diffusers makes its alphas of. Samplers of one schedule say
# the same here, and what one does not know is as good as what another has turned off.
_ALPHAS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "snr_shift_scale",
)
_CLOSE = 1e-5  # relative; float32 of two kinds of processors is 1e-6 apart, of two schedules 1e-3


class Digest:
    """sha256 over parts that are named, so that none can be taken for another."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, name: str, facts: Any) -> None:
        """Facts as JSON; the order of keys does not count."""
        text = json.dumps(facts, sort_keys=True, default=str)
        self._sha256.update(f"{name}={text}\n".encode())

    def add_tensor(self, name: str, tensor: torch.Tensor) -> None:
        """Shape and bytes."""
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        self._sha256.update(f"{name}{tuple(tensor.shape)}".encode())
        self._sha256.update(flat.view(torch.uint8).numpy().data)

    def add_module(self, name: str, module: nn.Module) -> None:
        """Class, configuration, adapters and weights."""
        self.add(f"{name} is", type(module).__name__)
        self.add(f"{name}'s configuration", config_facts(module))
        self.add(f"{name}'s adapters", adapter_facts(module))
        for key, tensor in module.state_dict().items():
            self.add_tensor(f"{name}.{key}", tensor)

    def hex(self) -> str:
        """So far."""
        return self._sha256.hexdigest()


def schedule_facts(scheduler: Any) -> dict[str, Any] | None:
    """What makes the alphas of a diffusers scheduler, in the place of the numbers.

    Their last bits are another processor's, of which the model would be another one.

    Returns:
        The facts, or None where they do not say the numbers: those are of flow matching, or
        somebody has changed them since.
    """
    config = getattr(scheduler, "config", {})
    if not config.get("beta_schedule") or config.get("use_flow_sigmas"):
        return None
    kind = type(scheduler)
    known = inspect.signature(kind.__init__).parameters  # keeps what others know, too
    given = {name: config[name] for name in known if name in config}
    own, made = (torch.as_tensor(each.alphas_cumprod).cpu() for each in (scheduler, kind(**given)))
    if own.shape != made.shape or not torch.allclose(own, made, rtol=_CLOSE, atol=_CLOSE**2):
        return None
    facts = {name: np.asarray(given[name]).tolist() for name in _ALPHAS if name in given}
    return {name: value for name, value in facts.items() if value not in (None, False)}


def config_facts(module: nn.Module) -> dict[str, Any]:
    """What a network's configuration says, diffusers' or transformers', beside names and types."""
    config: Any = getattr(module, "config", None)
    if config is None:
        return {}
    return _seen(config.to_dict() if hasattr(config, "to_dict") else dict(config))


def _seen(facts: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _seen(value) if isinstance(value, Mapping) else value
        for key, value in facts.items()
        if not str(key).startswith("_") and key not in _UNSEEN
    }


def adapter_facts(module: nn.Module) -> dict[str, Any]:
    """How strongly each adapter acts: by module name, of PEFT's layers."""
    return {
        name: {
            "kind": type(part).__name__,
            "active": list(part.active_adapters),  # pyright: ignore[reportArgumentType]
            "scales": dict(part.scaling),  # pyright: ignore[reportArgumentType, reportCallIssue]
            "merged": list(getattr(part, "merged_adapters", ())),
            "disabled": bool(getattr(part, "disable_adapters", False)),
        }
        for name, part in module.named_modules()
        if hasattr(part, "active_adapters") and hasattr(part, "scaling")
    }
