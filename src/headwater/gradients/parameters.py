"""Which parameters are attributed: a name from a short list, or a regular expression."""

from __future__ import annotations

import difflib
import re

from torch import nn

from headwater.errors import ParameterError
from headwater.gradients.layers import attributable

# Matched against module names with `re.search`.
SUBSETS = {
    "attn2": r"\.attn2\.",
    "attn2-kv": r"\.attn2\.to_[kv](\.|$)",
    "attn2-qo": r"\.attn2\.to_(q|out)(\.|$)",  # no words but in to_out's input
    "attn": r"\.attn[12]\.",
    "up_blocks": r"^up_blocks\.",
    "lora": r"\.lora_[AB]\.",
    "all": r"",
}


def select(network: nn.Module, parameters: str) -> dict[str, nn.Module]:
    """The layers of the network that `parameters` names, in the network's order.

    Raises:
        ParameterError: the expression is not one, or matches no layer that can be attributed.
    """
    layers = dict(attributable(network))
    try:
        pattern = re.compile(SUBSETS.get(parameters, parameters))
    except re.error as error:
        raise ParameterError(
            f"--parameters {parameters!r} is no regular expression: {error}"
        ) from None
    chosen = {name: layer for name, layer in layers.items() if pattern.search(name)}
    if not chosen:
        raise ParameterError(
            f"--parameters {parameters!r} matches no layer; nearest: "
            f"{', '.join(_nearest(parameters, list(layers)))}; or one of {', '.join(SUBSETS)}"
        )
    return chosen


def _nearest(wanted: str, names: list[str]) -> list[str]:
    """The names that read most like `wanted`, compared part by part as well as whole."""
    parts = {name: [name, *name.split(".")] for name in names}
    score = {
        name: max(difflib.SequenceMatcher(None, wanted, p).ratio() for p in parts[name])
        for name in names
    }
    return sorted(names, key=lambda name: -score[name])[:3]
