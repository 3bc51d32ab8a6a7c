"""The recipe of an index: all that a feature row depends on besides the model and the sample."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from headwater.curvature.passes import TARGETS
from headwater.data.training_set import TrainingSet
from headwater.errors import (
    DatasetError,
    MethodError,
    ModelError,
    ParameterError,
)
from headwater.features.loss_weights import require_loss_weights
from headwater.features.spec import TIMESTEPS, Side
from headwater.gradients.layers import size
from headwater.gradients.projection import require_dim
from headwater.methods.choice import method_named, served_by, side_of, train_side
from headwater.methods.row import Method
from headwater.methods.table import DEFAULT_METHOD
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser

# Raised whenever the numbers in a row change meaning: older indexes are then refused.
FEATURES_VERSION = 4
DEFAULT_DIM = 8192
# In the metric of a curvature gradients are spread over all directions, and there is no kernel
# whose inverse would grow with the square of this.
CURVED_DIM = 32_768
DEFAULT_PROJECTION = "count-sketch"
# Of rows that another program projected, in a way that cannot be repeated here.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class IndexOptions:
    """What is asked of an index; with a model it is a `Recipe`.

    Args:
        method: a name of `METHODS`.
        parameters: a set of the model's family or a regular expression over layer names; None for
            the set that suits the model: its cross-attention, if it has any.
        timesteps: how many probes, evenly spaced over the noise schedule.
        draws: of noise at each timestep, where a method draws noise.
        dim: features of an image; None for 8,192 (32,768 of methods with a curvature), or all
            parameters if they are fewer.
        seed: of projections and noise.
        projection: a name of `projection.PROJECTIONS`; "identity" keeps every parameter.
        inversion_guidance: classifier-free guidance of the inversion, where there is one; None for
            the method's own.
        loss_weights: how much each timestep counted in training, a name of `LOSS_WEIGHTS`.
        curvature_targets: of what the curvature is, for methods that have one: "model" (the
            Gauss-Newton matrix) or "data" (the empirical Fisher matrix).
        clip: for clip-dot and clip-cosine.
    """

    method: str = DEFAULT_METHOD
    parameters: str | None = None
    timesteps: int = TIMESTEPS
    draws: int = 1
    dim: int | None = None
    seed: int = 0
    projection: str = DEFAULT_PROJECTION
    inversion_guidance: float | None = None
    loss_weights: str = "uniform"
    curvature_targets: str = "model"
    clip: Clip | None = None

    def given_of_gradients(self) -> dict[str, bool]:
        """Of the options that say how gradients are made, whether each is not what it is anyway."""
        names = (
            "parameters", "timesteps", "draws", "dim", "projection", "inversion_guidance",
            "loss_weights", "curvature_targets",
        )  # fmt: skip
        usual = IndexOptions()
        return {name: getattr(self, name) != getattr(usual, name) for name in names}


def options_named(options: Mapping[str, Any]) -> IndexOptions:
    """Options by name.

    Raises:
        ParameterError: there is none of that name.
    """
    known = [field.name for field in fields(IndexOptions)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ParameterError(
                f"an index has no option {name!r}: "
                + (f"it is {near[0]!r}" if near else f"there are {', '.join(known)}")
            )
    return IndexOptions(**options)


_KINDS = {"str": str, "int": int, "float": (int, float), "tuple[str, ...]": str,
          "tuple[int, ...]": int}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Everything that a feature row depends on, apart from the model and the sample."""

    method: str
    train_path: str
    train_delta: str
    normalise: str
    parameters: str
    layers: tuple[str, ...]
    timesteps: tuple[int, ...]
    draws: int
    dim: int
    seed: int
    projection: str = DEFAULT_PROJECTION
    inversion_guidance: float = 1.0
    loss_weights: str = "uniform"
    curvature: str = ""
    curvature_targets: str = ""
    clip: str = ""
    features_version: int = FEATURES_VERSION

    def __post_init__(self) -> None:
        """Refuse values of other types, as `index.json` may hold, with a TypeError."""
        for field in fields(self):
            value = getattr(self, field.name)
            every = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(each, _KINDS[str(field.type)]) for each in every):
                raise TypeError(f"{field.name} is {value!r:.60}")

    @property
    def train(self) -> Side:
        """What rows hold."""
        return side_of(vars(self))

    def query_facts(self) -> dict[str, Any]:
        """What the gradient of a question depends on too: all but what is asked of images."""
        asked_of_images = (
            "method", "train_path", "train_delta", "parameters", "draws", "loss_weights", "clip",
        )  # fmt: skip
        return {name: v for name, v in self.facts().items() if name not in asked_of_images}

    def facts(self) -> dict[str, Any]:
        """All of it, for `index.json`; what is said of a curvature only where there is one."""
        of_curvature = () if self.curvature else ("curvature", "curvature_targets")
        return {name: v for name, v in asdict(self).items() if name not in of_curvature}


def plan(denoiser: Denoiser, **options: Any) -> Recipe:
    """The recipe of an index, for options by the names of `IndexOptions`.

    Raises:
        MethodError, ParameterError: no such method, no such parameters or option, `dim` out of
            range, or an option without effect on the method.
    """
    given = options_named(options)
    row = method_named(given.method)
    train = train_side(row, given.inversion_guidance)
    rest: dict[str, Any] = dict(
        method=row.name,
        train_path=train.path,
        train_delta=train.delta,
        normalise=row.normalise,
        seed=given.seed,
        draws=given.draws,
        inversion_guidance=train.guidance,
        loss_weights=given.loss_weights,
    )
    require_loss_weights(given.loss_weights)
    if train.gradient:
        _require_prompts(denoiser, row, train)
        _require_draws(row, train, given.draws)
        rest |= _of_curvature(row, given)
        return Recipe(**rest, **_of_gradients(denoiser, given))
    refuse_ignored(row, **given.given_of_gradients(), buckets=bool(denoiser.buckets))
    if train.path == "pixels":
        return Recipe(**rest, **_NO_GRADIENT, dim=math.prod(denoiser.latent_shape))
    if given.clip is None:
        raise MethodError(f"{row.name} needs a CLIP model: give its folder as --clip")
    return Recipe(**rest, **_NO_GRADIENT, dim=given.clip.dim, clip=given.clip.fingerprint())


def _of_curvature(row: Method, given: IndexOptions) -> dict[str, Any]:
    """The part of a recipe that says in which metric rows are."""
    targets = given.curvature_targets
    if targets not in TARGETS:
        raise ParameterError(f"--curvature-targets {targets!r} is not one of {', '.join(TARGETS)}")
    if not row.curvature:
        if targets != IndexOptions.curvature_targets:
            raise MethodError(
                f"--curvature-targets is for methods with a curvature; {row.name} has none"
            )
        return {}
    if given.projection == "factored":
        raise ParameterError(
            f"--projection factored never forms the gradient, which the curvature of {row.name} "
            "needs: take another, or give a method without one, such as --method concept-trak"
        )
    return dict(curvature=row.curvature, curvature_targets=targets)


def _of_gradients(denoiser: Denoiser, given: IndexOptions) -> dict[str, Any]:
    """The part of a recipe that says how gradients are made."""
    parameters = given.parameters
    parameters = denoiser.default_parameters() if parameters is None else parameters
    layers = denoiser.layers(parameters)
    total, dim = sum(map(size, layers.values())), given.dim
    if dim is None:
        usual = CURVED_DIM if method_named(given.method).curvature else DEFAULT_DIM
        dim = total if given.projection == "identity" else min(usual, total)
    require_dim(dim, total, given.projection)  # before anything is built
    return dict(
        parameters=parameters,
        layers=tuple(layers),
        timesteps=tuple(denoiser.schedule.evenly_spaced(given.timesteps)),
        dim=dim,
        projection=given.projection,
    )


def planned_of_all(
    denoiser: Denoiser, checkpoints: Sequence[str | Path] = (), **recipe: Any
) -> list[Recipe]:
    """The recipe of the model and of each checkpoint, which is loaded for that and let go.

    Raises:
        MethodError, ParameterError: see `plan`; too few checkpoints for the method, or
            some for a method that has no use for them.
        ModelError: a checkpoint cannot be loaded, or is no checkpoint of this model.
    """
    planned = [plan(denoiser, **recipe)]
    method = method_named(planned[0].method)
    if 1 + len(checkpoints) < method.checkpoints:
        raise MethodError(
            f"{method.name} is a mean over checkpoints: give at least {method.checkpoints - 1} "
            "more with --checkpoint"
        )
    if not planned[0].train.gradient:
        refuse_ignored(method, checkpoint=bool(checkpoints))
    if method.one_model and checkpoints:
        other = served_by(planned[0].train, method.normalise, 2, method.curvature)[0]
        raise MethodError(
            f"{method.name} is of one model, and --checkpoint gives more: leave it out, or give "
            f"--method {other}"
        )
    if "lora" in denoiser.options and checkpoints:
        raise ModelError(
            "--checkpoint takes whole models, which --lora is no part of: fuse the adapters into "
            "copies of the model (`fuse_lora`) and give those"
        )
    for source in checkpoints:
        other = denoiser.like(source)
        if other.encoders_fingerprint() != denoiser.encoders_fingerprint():
            raise ModelError(
                f"--checkpoint {str(source)!r} has another autoencoder or text encoder than the "
                "model: give checkpoints of one training, or an index for each"
            )
        planned.append(plan(other, **recipe))
    return planned


_NO_GRADIENT: dict[str, Any] = dict(parameters="", layers=(), timesteps=(), projection="none")


def refuse_ignored(method: Method, **given: bool) -> None:
    """Refuse options of how gradients are made, for a method that makes none.

    Args:
        given: for each whether it was given.

    Raises:
        MethodError: names the first that was.
    """
    for name in (name for name, was_given in given.items() if was_given):
        raise MethodError(
            f"--{name.replace('_', '-')} is of how gradients are made, and {method.name} makes "
            "none: leave it out"
        )


def _require_prompts(denoiser: Denoiser, method: Method, train: Side) -> None:
    if train.guided and not denoiser.conditional:
        other = served_by(replace(train, guidance=1.0), method.normalise)[0]
        raise MethodError(
            f"{method.name} guides its inversion (by {train.guidance:g}) with prompts, and "
            f"{denoiser.source or 'this model'} reads none: give --method {other}"
        )


def _require_draws(method: Method, train: Side, draws: int) -> None:
    inverts = train.path == "inversion"
    if draws < 1 or (draws > 1 and inverts):
        raise MethodError(
            f"--draws {draws}: "
            + (f"{method.name} draws no noise, leave it out" if inverts else "must be at least 1")
        )


def require_kinds(denoiser: Any, training_set: Any) -> None:
    """Refuse what people give in place of a model and images, before it is taken apart.

    Raises:
        ModelError: the first is no Denoiser.
        DatasetError: the second is no TrainingSet.
    """
    if not isinstance(denoiser, Denoiser):
        raise ModelError(
            f"a {type(denoiser).__name__} is no Denoiser: give Denoiser.load(folder), or "
            "Denoiser(pipe) for a pipeline in memory"
        )
    if not isinstance(training_set, TrainingSet):
        raise DatasetError(
            f"a {type(training_set).__name__} is no TrainingSet: give load_dataset(folder), "
            "from_images(pictures, captions) or from_hf_dataset(dataset)"
        )
