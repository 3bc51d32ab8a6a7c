"""Which methods an evaluation can ask of a model, and the indexes that serve them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwater.data.training_set import TrainingSet
from headwater.errors import MethodError
from headwater.index.build import build_index
from headwater.index.index import Index
from headwater.methods.choice import first_ask, method_named
from headwater.methods.row import Method
from headwater.methods.table import METHODS
from headwater.models.denoiser import Denoiser
from headwater.queries.outputs.output import OUTPUTS

# --- what a row of the table says -----------------------------------------------------------------


def uses_gradients(method: Method) -> bool:
    """Whether its features of training images are gradients."""
    return method.train is not None and method.train.gradient


def uses_clip(method: Method) -> bool:
    """Whether it needs a CLIP model."""
    return method.train is not None and method.train.path == "clip"


def uses_checkpoints(method: Method) -> bool:
    """Whether it needs several models of one training."""
    return method.checkpoints > 1


def follows_making(method: Method) -> bool:
    """Whether it needs the making of a picture."""
    return method.query is not None and method.query.path == "renoised"


def asks_by_captions(method: Method) -> bool:
    """Whether it asks for a concept by the captions that name it."""
    return method.scorer == "captions"


def query_kind(method: Method, ask: str | None = None) -> str:
    """What a method is asked about in an evaluation, or "" where it takes none of these.

    That is the output named, if it takes it, else the concept's slider, else an image. Where none
    is named, what `headwater concept` asks by it.

    >>> query_kind(METHODS["ekfac"]), query_kind(METHODS["ekfac"], "slider")
    ('contribution', 'concept')
    """
    kinds = (ask or first_ask(method), "concept", "image")
    return next((kind for kind in kinds if kind in method.takes), "")


# --- names ----------------------------------------------------------------------------------------


def methods_in(names: Sequence[str]) -> list[Method]:
    """The methods among these names; other names, of baselines, are no methods."""
    return [METHODS[name] for name in names if name in METHODS]


def gradient_methods(names: Sequence[str]) -> list[str]:
    """Those of gradients."""
    return [method.name for method in methods_in(names) if uses_gradients(method)]


def clip_methods(names: Sequence[str]) -> list[str]:
    """Those that need a CLIP model."""
    return [method.name for method in methods_in(names) if uses_clip(method)]


def require_kind(method: Method, ask: str | None) -> None:
    """Refuse a method that `query_kind` finds no question for.

    Raises:
        MethodError: names it.
    """
    if not query_kind(method, ask):
        outputs = " or ".join(kind for kind in OUTPUTS if kind in method.takes)
        mend = f"give --ask {outputs}, or leave --ask out" if outputs else "leave it out"
        raise MethodError(f"{method.name} takes neither concepts nor images: {mend}")


def require_askable(names: Sequence[str], ask: str | None) -> None:
    """Refuse, before anything is trained, methods that a study cannot ask.

    Args:
        ask: "image", or as of `query_kind`.

    Raises:
        MethodError: there is none of that name, it takes other questions, or it needs what a study
            does not have.
    """
    for method in map(method_named, names):
        if ask == "image" and ask not in method.takes:
            raise MethodError(f"{method.name} cannot be asked for a picture: leave it out")
        require_kind(method, ask)
        if ask == "image" and follows_making(method):
            raise MethodError(
                f"{method.name} follows the making of a picture, and held-out ones were not made "
                "by the model: leave it out"
            )
        if uses_clip(method):
            raise MethodError(
                f"{method.name} needs a CLIP model, which a study does not have: leave it out"
            )
        if uses_checkpoints(method):
            raise MethodError(f"{method.name} needs a training's checkpoints: leave it out")
        if method.recorded:
            raise MethodError(f"{method.name} needs a recorded training: leave it out")


# --- indexes --------------------------------------------------------------------------------------


def build_indexes(
    model: Denoiser, data: TrainingSet, folder: Path, names: Sequence[str], **recipe: Any
) -> dict[Method, Index]:
    """An index for each method; methods of the same features share one, `random` takes any.

    Args:
        recipe: more of `build_index`, for gradients; `clip` is for the methods that have one.
    """
    clip = recipe.pop("clip", None)
    methods = [method_named(name) for name in names]
    with_features = [method for method in methods if method.train]
    stand_in = (with_features or [method_named("pixel-cosine")])[0]
    indexes: dict[Method, Index] = {}
    for method in methods:
        indexed = method if method.train else stand_in
        assert indexed.train is not None
        own = recipe if indexed.train.gradient else {}
        train, guided = indexed.train, [indexed.train.guidance] * indexed.train.guided
        weighed = [indexed.curvature] if indexed.curvature else []
        options = [  # of parameters alone, as folders of before are called
            str(value) if name == "parameters" else f"{name}={value}"
            for name, value in sorted(own.items())
        ]
        side = (train.path, train.delta, *guided, indexed.normalise, *weighed, *options)
        own = {"clip": clip} if uses_clip(indexed) else own
        place = folder / "-".join(map(str, side))
        indexes[method] = build_index(model, data, place, method=indexed.name, **own)
    return indexes
