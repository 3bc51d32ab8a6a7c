"""Which method answers a question: by its name, by what an index serves, by what it takes."""

from __future__ import annotations

from headwater.errors import MethodError
from headwater.features.spec import Side
from headwater.methods.row import QUESTIONS, Method
from headwater.methods.table import METHODS


def method_named(name: str) -> Method:
    """The row of this name.

    Raises:
        MethodError: there is none.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise MethodError(f"there is no method {name!r}; there are: {', '.join(METHODS)}") from None


def served_by(train: Side, normalise: str, checkpoints: int = 1) -> list[str]:
    """Names of the methods that an index of these features can serve."""

    def serves(method: Method) -> bool:
        if method.train is None:  # no features
            return checkpoints == 1 or not method.one_model
        same = (method.train, method.normalise) == (train, normalise)
        return same and checkpoints >= method.checkpoints

    return [name for name, method in METHODS.items() if serves(method)]


def choose(name: str | None, built_for: str, served: list[str], question: str) -> Method:
    """The method that answers this question: the one named, or the first that the index serves.

    Raises:
        MethodError: there is none; names what would work.
    """
    if name is None:
        order = [built_for, *served] if built_for in served else served
        takers = [row for row in map(method_named, order) if question in row.takes]
        if takers and (takers[0].train is not None or not _by_features(question)):
            return takers[0]
        raise MethodError(
            f"an index built for {built_for} cannot be asked for {QUESTIONS[question]}: build "
            f"one for {_listed(question)}"
        )
    method = method_named(name)
    if question not in method.takes:
        raise MethodError(
            f"{name} cannot be asked for {QUESTIONS[question]}: that take {_listed(question)}; "
            f"{name} takes: {', '.join(method.takes)}"
        )
    if name not in served and method.train is None:
        raise MethodError(
            f"{name} is of one model, and this index is of several: ask an index built without "
            "--checkpoint"
        )
    if name not in served:
        more = " with --checkpoint" if method.checkpoints > 1 else ""
        raise MethodError(
            f"this index was built for {built_for} and serves {', '.join(served)}: build one with "
            f"`--method {name}`{more}"
        )
    return method


def _by_features(question: str) -> bool:
    """Whether any method answers such a question by an index's features."""
    return any(question in method.takes and method.train for method in METHODS.values())


def _listed(question: str) -> str:
    return ", ".join(name for name, method in METHODS.items() if question in method.takes)


def measure(method: str) -> str:
    """What a method's scores are of: a key of `WORDING`."""
    return method_named(method).measure
