"""The table of methods: path and guidance of the train side, of the query side, and a score rule.

A method is one row. Paths are functions of `probes`, deltas of `guidance`,
rules of `kernel`.
"""

from __future__ import annotations

from dataclasses import dataclass

from headwater.errors import MethodError


@dataclass(frozen=True)
class Side:
    """Where the probes of one side come from, and what is asked of the prediction there."""

    path: str
    delta: str


@dataclass(frozen=True)
class Method:
    """One row. `normalise`: every probe's gradient is scaled to unit norm before averaging."""

    name: str
    paper: str
    train: Side
    query: Side
    normalise: bool
    rule: str = "trak"


_CONCEPT = Side("generation", "concept")

METHODS = {
    method.name: method
    for method in (
        Method("concept-trak", "Park 2025", Side("inversion", "dps"), _CONCEPT, True),
        Method("concept-trak-a", "Park 2025, ablation", Side("noising", "dsm"), _CONCEPT, False),
        Method("concept-trak-b", "Park 2025, ablation", Side("noising", "dps"), _CONCEPT, False),
        Method("concept-trak-c", "Park 2025, ablation", Side("inversion", "dps"), _CONCEPT, False),
    )
}


def method_named(name: str) -> Method:
    """The row of this name.

    Raises:
        MethodError: there is none.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise MethodError(f"there is no method {name!r}; there are: {', '.join(METHODS)}") from None


def served_by(train_path: str, train_delta: str, normalise: bool) -> list[str]:
    """Names of the methods that an index with this train side can serve."""
    return [
        name
        for name, method in METHODS.items()
        if (method.train, method.normalise) == (Side(train_path, train_delta), normalise)
    ]
