"""The recipe of an index: all that a feature row depends on besides the model and the sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headwater.denoiser import Denoiser
from headwater.features import Extractor
from headwater.layers import size
from headwater.methods import Side, method_named
from headwater.parameters import select
from headwater.probes import evenly_spaced
from headwater.projection import require_dim, sketch

# Raised whenever the numbers in a row change meaning: older indexes are then refused.
FEATURES_VERSION = 1
DEFAULT_DIM = 8192


@dataclass(frozen=True)
class Recipe:
    """Everything that a feature row depends on, apart from the model and the sample."""

    method: str
    train_path: str
    train_delta: str
    normalise: bool
    parameters: str
    layers: tuple[str, ...]
    timesteps: tuple[int, ...]
    dim: int
    seed: int
    projection: str = "count-sketch"
    features_version: int = FEATURES_VERSION


def plan(
    denoiser: Denoiser,
    *,
    method: str = "concept-trak",
    parameters: str = "attn2",
    timesteps: int = 10,
    dim: int | None = None,
    seed: int = 0,
) -> Recipe:
    """The recipe of an index. `dim` defaults to 8,192, or to all parameters if they are fewer.

    Raises:
        MethodError, ParameterError: no such method, no such parameters, `dim` out of range.
    """
    row = method_named(method)
    layers = select(denoiser.network, parameters)
    total = sum(map(size, layers.values()))
    dim = min(DEFAULT_DIM, total) if dim is None else dim
    require_dim(dim, total)  # before anything is built
    return Recipe(
        method=method,
        train_path=row.train.path,
        train_delta=row.train.delta,
        normalise=row.normalise,
        parameters=parameters,
        layers=tuple(layers),
        timesteps=tuple(evenly_spaced(timesteps, len(denoiser.alpha_bar))),
        dim=dim,
        seed=seed,
    )


def extractor(denoiser: Denoiser, recipe: Recipe) -> Extractor:
    """The machine that makes this recipe's rows with this model."""
    modules = dict(denoiser.network.named_modules())
    layers: Any = {name: modules[name] for name in recipe.layers}
    sizes = {name: size(layer) for name, layer in layers.items()}
    projection = sketch(sizes, recipe.dim, recipe.seed, denoiser.device)
    return Extractor(
        denoiser,
        layers,
        projection,
        Side(recipe.train_path, recipe.train_delta),
        recipe.timesteps,
        recipe.normalise,
        recipe.seed,
    )
