"""Which parameters are attributed, by a set's name or an expression, and which never can be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from headwater.errors import ParameterError
from headwater.gradients.adapters import adapter_factors
from headwater.gradients.layers import attributable, parameters_of, size

# Sets that any network may have, besides those of its family. Matched with `re.search`.
COMMON_SETS = {"lora": r"\.lora_([AB]|magnitude_vector)\.|\.(lokr|hada)_", "all": r""}


def select(
    network: nn.Module,
    parameters: str,
    sets: Mapping[str, str] | None = None,
    mixed: Sequence[str] = (),
    more: Mapping[str, nn.Module] | None = None,
) -> dict[str, nn.Module]:
    """The layers of the network that `parameters` names, in the network's order.

    Args:
        sets: name -> regular expression, besides `COMMON_SETS`.
        mixed: as in `attributable`.
        more: layers by name that may be chosen too, after those of the network.

    Raises:
        ParameterError: the expression is not one, or matches no layer that can be attributed.
    """
    sets = {**(sets or {}), **COMMON_SETS}
    layers = {**dict(attributable(network, mixed)), **(more or {})}
    try:
        pattern = re.compile(sets.get(parameters, parameters))
    except re.error as error:
        raise ParameterError(
            f"--parameters {parameters!r} is no regular expression: {error}"
        ) from None
    chosen = {name: layer for name, layer in layers.items() if pattern.search(_label(name, layer))}
    if not chosen:
        raise ParameterError(
            f"--parameters {parameters!r} matches no layer; nearest: "
            f"{', '.join(_nearest(parameters, list(layers)))}; or one of {', '.join(sets)}"
        )
    return chosen


def adapters_of(prefix: str, network: nn.Module) -> dict[str, nn.Module]:
    """The layers of a network's adapters, each under the prefix, a dot and its name."""
    pattern = re.compile(COMMON_SETS["lora"])
    return {
        f"{prefix}.{name}": layer
        for name, layer in attributable(network)
        if pattern.search(_label(name, layer))
    }


def first_match(
    network: nn.Module,
    names: Sequence[str],
    sets: Mapping[str, str] | None = None,
    more: Mapping[str, nn.Module] | None = None,
) -> str:
    """The first of these names that the network has layers of, or the last.

    Args:
        names: of sets, or regular expressions.
        sets: as in `select`.
        more: as in `select`.
    """
    known = {**(sets or {}), **COMMON_SETS}
    every = {**dict(attributable(network)), **(more or {})}
    labels = [_label(name, layer) for name, layer in every.items()]
    for name in names:
        pattern = re.compile(known.get(name, name))
        if any(pattern.search(label) for label in labels):
            return name
    return names[-1]


def _label(name: str, layer: nn.Module) -> str:
    """What patterns are compared with: the layer's name, and the first of its adapter's factors."""
    return ".".join([name, *list(adapter_factors(layer))[:1]])


class LeftOut(NamedTuple):
    """Parameters that no kind of layer attributes.

    Attributes:
        name: of a module of no known kind or that is mixed, or of a parameter that a module with
            modules inside holds itself (`scale_shift_table`).
        kind: the class of that module, or of the one that holds the parameter.
        numel: how many numbers these are.
    """

    name: str
    kind: str
    numel: int


def left_out(
    network: nn.Module, layers: Iterable[str] | None = None, mixed: Sequence[str] = ()
) -> list[LeftOut]:
    """What of the network no choice of layers can attribute, in the network's order.

    Args:
        layers: names of chosen layers (what `select` returns will do). Only what stands beside one
            of them counts then: the smallest module that holds it and any layer of a known kind
            holds a chosen one too. None stands for all layers.
        mixed: as in `attributable`.
    """
    known = dict(attributable(network, mixed))
    chosen = known if layers is None else set(layers)
    holds_known, holds_chosen = set(_ancestors(known)), set(_ancestors(chosen))
    found = []
    for part in _unknown(network, known):
        nearest = next((name for name in _ancestors([part.name]) if name in holds_known), "")
        if layers is None or nearest in holds_chosen:
            found.append(part)
    return found


def _unknown(network: nn.Module, known: Mapping[str, nn.Module]) -> Iterator[LeftOut]:
    """What the modules that are not `known` hold: as a whole where no modules are inside them."""
    inside = {id(parameter) for layer in known.values() for parameter in parameters_of(layer)}
    for name, module in network.named_modules():
        own = {
            key: parameter
            for key, parameter in module.named_parameters(recurse=False)
            if name not in known and id(parameter) not in inside
        }
        kind = type(module).__name__
        if own and name and not any(True for _ in module.children()):
            yield LeftOut(name, kind, size(module))
            continue
        for key, parameter in own.items():
            yield LeftOut(f"{name}.{key}" if name else key, kind, parameter.numel())


def _ancestors(names: Iterable[str]) -> Iterator[str]:
    """The modules around each name, from the smallest to the network, whose name is empty."""
    for name in names:
        while name:
            name = name.rpartition(".")[0]
            yield name


def _nearest(wanted: str, names: list[str]) -> list[str]:
    """The names that read most like `wanted`, compared part by part as well as whole."""
    parts = {name: [name, *name.split(".")] for name in names}
    score = {
        name: max(difflib.SequenceMatcher(None, wanted, p).ratio() for p in parts[name])
        for name in names
    }
    return sorted(names, key=lambda name: -score[name])[:3]
