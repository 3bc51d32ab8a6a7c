"""Which methods an evaluation can ask of a model that it trained, and their indexes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from headwater.data.training_set import TrainingSet
from headwater.errors import MethodError
from headwater.features.spec import Side
from headwater.index.build import build_index
from headwater.index.index import Index
from headwater.methods import METHODS, Method, method_named
from headwater.models.denoiser import Denoiser


def require(names: Sequence[str], question: str) -> None:
    """Refuse, before anything is trained, methods that a study cannot ask.

    Raises:
        MethodError: there is none of that name, it takes other questions, or it needs what a study
            does not have.
    """
    for method in map(method_named, names):
        if question not in method.takes and "image" not in method.takes:
            raise MethodError(f"{method.name} cannot be asked for a picture: leave it out")
        if question == "image" and follows(method):
            raise MethodError(
                f"{method.name} follows the making of a picture, and held-out ones were not made "
                "by the model: leave it out"
            )
        if by_clip([method.name]):
            raise MethodError(
                f"{method.name} needs a CLIP model, which a study does not have: leave it out"
            )
        if method.checkpoints > 1:
            raise MethodError(f"{method.name} needs a training's checkpoints: leave it out")


def of_gradients(names: Sequence[str]) -> list[str]:
    """Those methods whose features of training images are gradients; other names are no methods."""
    return [name for name, train in _trains(names).items() if train.gradient]


def by_clip(names: Sequence[str]) -> list[str]:
    """Those methods that need a CLIP model."""
    return [name for name, train in _trains(names).items() if train.path == "clip"]


def _trains(names: Iterable[str]) -> dict[str, Side]:
    sides = {name: METHODS[name].train for name in names if name in METHODS}
    return {name: side for name, side in sides.items() if side is not None}


def follows(method: Method) -> bool:
    """Whether it needs the making of a picture."""
    return method.query is not None and method.query.path == "renoised"


def indexes_of(
    model: Denoiser, data: TrainingSet, folder: Path, names: Sequence[str], **recipe: Any
) -> dict[Method, Index]:
    """An index for each method; methods of the same features share one, `random` takes any.

    Args:
        recipe: more of `build_index`, for gradients; `clip` is for the methods that have one.
    """
    clip = recipe.pop("clip", None)
    methods = [method_named(name) for name in names]
    with_features = [each for each in methods if each.train] or [method_named("pixel-cosine")]
    found: dict[Method, Index] = {}
    for method in methods:
        other = method if method.train else with_features[0]
        assert other.train is not None
        own = recipe if other.train.gradient else {}
        side = (other.train.path, other.train.delta, other.normalise, *own.values())
        own = {"clip": clip} if other.train.path == "clip" else own
        place = folder / "-".join(map(str, side))
        found[method] = build_index(model, data, place, method=other.name, **own)
    return found
