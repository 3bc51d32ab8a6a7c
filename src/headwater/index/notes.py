"""What a person should know of an index before it is built: which parameters, and which not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.gradients.layers import size
from headwater.gradients.parameters import left_out
from headwater.index.config import Recipe
from headwater.models.denoiser import Denoiser


def notes_on_parameters(
    denoiser: Denoiser, recipe: Recipe, options: Mapping[str, Any]
) -> list[str]:
    """Lines on which parameters were chosen, where that is not what anybody would expect."""
    notes, usual = [], denoiser.family.default_parameters[0]
    if options.get("parameters") is None and recipe.parameters not in ("", usual):
        layers = denoiser.layers(recipe.parameters)
        notes.append(
            f"the model has no {usual} layers: --parameters {recipe.parameters} is taken, "
            f"{sum(map(size, layers.values())):,} numbers in {len(layers)} layers"
        )
    lost = left_out(denoiser.network) if recipe.parameters == "all" else []
    if lost:
        whole = sum(parameter.numel() for parameter in denoiser.network.parameters())
        notes.append(
            f"--parameters all leaves out {sum(part.numel for part in lost):,} of {whole:,} "
            f"numbers, which stand in no layer of a known kind, such as {lost[0].name} "
            f"({lost[0].kind})"
        )
    return notes
