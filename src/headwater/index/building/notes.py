"""What a person should know of an index before it is built: of its parameters, of versions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from headwater.data.training_set import TrainingSet
from headwater.errors import HeadwaterWarning
from headwater.gradients.layers import size
from headwater.gradients.parameters import left_out, select
from headwater.index.config import Recipe
from headwater.models.denoiser import Denoiser
from headwater.storage.manifest import Manifest


def notes_on_versions(old: Manifest, new: Manifest) -> list[str]:
    """A line, where other versions go on with what some have begun: rows may differ by rounding."""
    changed = [
        f"{name} {old.versions[name]} (now {version})"
        for name, version in new.versions.items()
        if name != "python" and old.versions.get(name, version) != version
    ]
    if not changed:
        return []
    return [
        f"begun with {', '.join(changed)}: rows of both will stand side by side, --overwrite makes "
        "all of them anew"
    ]


def notes_on_parameters(
    denoiser: Denoiser, recipe: Recipe, options: Mapping[str, Any]
) -> list[str]:
    """Lines on which parameters were chosen, how many numbers these are, and what is left out."""
    if not recipe.parameters:  # of rows that are no gradients
        return []
    usual, layers = denoiser.usual_parameters()[0], denoiser.layers(recipe.parameters)
    chosen = options.get("parameters") is not None or recipe.parameters == usual
    notes = [
        ("" if chosen else f"the model has no {usual} layers: ")
        + f"--parameters {recipe.parameters} is taken, {sum(map(size, layers.values())):,} numbers "
        f"in {len(layers)} layers"
    ]
    everything = recipe.parameters == "all"
    lost = left_out(denoiser.network, mixed=denoiser.family.mixed) if everything else []
    if lost:
        whole = sum(parameter.numel() for parameter in denoiser.network.parameters())
        notes.append(
            f"--parameters all leaves out {sum(part.numel for part in lost):,} of {whole:,} "
            f"numbers, which stand in no layer with gradients of each sample, such as "
            f"{lost[0].name} ({lost[0].kind})"
        )
    elif denoiser.family.mixed:
        family = denoiser.family
        every = select(
            denoiser.network, recipe.parameters, family.parameter_sets, more=denoiser.adapters
        )
        mixed = [name for name in every if name not in recipe.layers]
        if recipe.layers and mixed:
            notes.append(
                f"--parameters {recipe.parameters} leaves out {len(mixed)} layers that take a "
                f"batch as one sequence, such as {mixed[0]}"
            )
    return notes


def speak_of_captions(data: TrainingSet, note: Callable[[str], None]) -> None:
    """Say how many images have several, and how many none."""
    several = [sample.id for sample in data.samples if sample.captions]
    if several:
        note(
            f"{len(several)} image(s) have several captions, such as {several[0]!r}: one is drawn "
            "at each probe"
        )
    missing = [sample.id for sample in data.samples if not sample.caption]
    if len(missing) == len(data):
        text = f"{data.source} has no captions, and the model was trained with them"
        warnings.warn(text, HeadwaterWarning, stacklevel=3)
    elif missing:
        text = (
            f"{data.source}: {len(missing)} of {len(data)} images have no caption, such as "
            f"{missing[0]!r}, and are taken with an empty one"
        )
        warnings.warn(text, HeadwaterWarning, stacklevel=3)
