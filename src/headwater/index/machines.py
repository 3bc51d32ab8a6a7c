"""What makes the rows of a recipe: a model, loaded again, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from headwater.errors import MismatchError, StoreError
from headwater.features.embeddings import Embedder, latents
from headwater.features.extractor import Extractor
from headwater.features.loss_weights import loss_weights
from headwater.gradients.blocks import Form, forms_as_they_are
from headwater.gradients.projection import Projection, project, side_by_side
from headwater.index.config import UNKNOWN, Recipe
from headwater.index.index import Index
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.runtime.progress import one_call

Machine = Extractor | Embedder
# Of the layers by name, the form in which their gradients are projected.
Former = Callable[[Mapping[str, nn.Module]], Mapping[str, Form]]
AS_THEY_ARE: Sequence[Former] = (forms_as_they_are,)


def extractor(
    denoiser: Denoiser,
    recipe: Recipe,
    clip: Clip | None = None,
    formers: Sequence[Former] = AS_THEY_ARE,
) -> Machine:
    """The machine that makes this recipe's rows with this model.

    Args:
        formers: in which forms gradients are projected; of methods with a curvature, whitened. A
            row holds the features of each form after those of the forms before it.

    Raises:
        MismatchError: the recipe's rows are another CLIP's.
    """
    if recipe.train_path == "pixels":
        return Embedder(recipe.dim, partial(latents, denoiser))
    if recipe.train_path == "clip":
        if clip is None or clip.fingerprint() != recipe.clip:
            raise MismatchError("this index was built with another CLIP model: give it as --clip")
        return Embedder(recipe.dim, clip.images)
    return gradient_extractor(denoiser, recipe, formers)


def gradient_extractor(
    denoiser: Denoiser, recipe: Recipe, formers: Sequence[Former] = AS_THEY_ARE
) -> Extractor:
    """The same for rows that are gradients."""
    machine = without_projection(denoiser, recipe)
    settings = recipe.dim, recipe.seed, machine.denoiser.device
    each = [project(recipe.projection, former(machine.layers), *settings) for former in formers]
    return replace(machine, projection=each[0] if len(each) == 1 else side_by_side(each))


def without_projection(denoiser: Denoiser, recipe: Recipe) -> Extractor:
    """The same before there is a projection: probes and layers, from which it can be made."""
    layers = denoiser.layers_named(recipe.layers)
    if layers.keys() & denoiser.adapters.keys():
        denoiser = denoiser.with_graph_of_words()
    weights = loss_weights(recipe.loss_weights, denoiser.schedule, recipe.timesteps)
    return Extractor(
        denoiser,
        layers,
        Projection(recipe.dim, {}),
        recipe.train,
        recipe.timesteps,
        recipe.normalise,
        recipe.seed,
        recipe.draws,
        weights,
    )


def load_denoiser(index: Index) -> Denoiser:
    """The model that an index was built with: the one handed over, or from its recorded source.

    Raises:
        ModelError: it cannot be loaded any more.
        StoreError: it was in memory, and is not handed over; or it cannot be asked, see
            `index.published`.
        MismatchError: it has changed since.
    """
    model, denoiser = index.manifest.model, index.handed.denoiser
    if index.recipe.projection == UNKNOWN:
        raise StoreError(
            f"the rows of {index.path} were projected by another program, and a question to the "
            "model cannot be projected alike: ask with --feature, a file of that program"
        )
    if denoiser is None and not model["source"]:
        raise StoreError(f"{index.path} was built with a model in memory: give it to Index.open")
    with one_call("loading the model", seconds=False):
        if denoiser is None:
            dtype, options = getattr(torch, model["dtype"]), model.get("options", {})
            denoiser = Denoiser.load(model["source"], index.handed.device, dtype, **options)
        same = denoiser.fingerprint() == model["fingerprint"]
    if not same:
        why = "its weights or settings differ"
        shards = index.manifest.shards
        # format version 1, whose fingerprint saw weights alone
        if any(shard.checksum.startswith("sha256:") for shard in shards):
            why = "or it is, and the index is of format version 1, which cannot tell"
        raise MismatchError(
            f"the model {denoiser.source or 'given'!r} is not the one that {index.path} was "
            f"built with, {why}: build the index again for this model"
        )
    return denoiser
