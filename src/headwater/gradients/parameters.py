"""Which parameters are attributed: the name of a set, or a regular expression of module names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from torch import nn

from headwater.errors import ParameterError
from headwater.gradients.layers import attributable

# Sets that any network may have, besides those of its family. Matched with `re.search`.
COMMON_SETS = {"lora": r"\.lora_[AB]\.", "all": r""}


def select(
    network: nn.Module, parameters: str, sets: Mapping[str, str] | None = None
) -> dict[str, nn.Module]:
    """The layers of the network that `parameters` names, in the network's order.

    Args:
        sets: name -> regular expression, besides `COMMON_SETS`.

    Raises:
        ParameterError: the expression is not one, or matches no layer that can be attributed.
    """
    sets = {**(sets or {}), **COMMON_SETS}
    layers = dict(attributable(network))
    try:
        pattern = re.compile(sets.get(parameters, parameters))
    except re.error as error:
        raise ParameterError(
            f"--parameters {parameters!r} is no regular expression: {error}"
        ) from None
    chosen = {name: layer for name, layer in layers.items() if pattern.search(name)}
    if not chosen:
        raise ParameterError(
            f"--parameters {parameters!r} matches no layer; nearest: "
            f"{', '.join(_nearest(parameters, list(layers)))}; or one of {', '.join(sets)}"
        )
    return chosen


def first_match(
    network: nn.Module, names: Sequence[str], sets: Mapping[str, str] | None = None
) -> str:
    """The first of these names that the network has layers of, or the last.

    Args:
        names: of sets, or regular expressions.
        sets: as in `select`.
    """
    known = {**(sets or {}), **COMMON_SETS}
    layers = [layer for layer, _ in attributable(network)]
    for name in names:
        pattern = re.compile(known.get(name, name))
        if any(pattern.search(layer) for layer in layers):
            return name
    return names[-1]


def _nearest(wanted: str, names: list[str]) -> list[str]:
    """The names that read most like `wanted`, compared part by part as well as whole."""
    parts = {name: [name, *name.split(".")] for name in names}
    score = {
        name: max(difflib.SequenceMatcher(None, wanted, p).ratio() for p in parts[name])
        for name in names
    }
    return sorted(names, key=lambda name: -score[name])[:3]
