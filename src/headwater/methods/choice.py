"""Which method answers a question: by its name, by what an index serves, by what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

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


def side_of(recipe: Mapping[str, Any]) -> Side:
    """What the rows of a recipe hold, as `index.json` has it.

    >>> side_of({"train_path": "inversion", "train_delta": "dps", "inversion_guidance": 7.5})
    Side(path='inversion', delta='dps', guidance=7.5)
    """
    return Side(recipe["train_path"], recipe["train_delta"], recipe["inversion_guidance"])


def served_by(
    train: Side,
    normalise: str,
    checkpoints: int = 1,
    curvature: str = "",
    recorded: bool = False,
) -> list[str]:
    """Names of the methods that an index of these features can serve.

    One of a guided inversion serves guided methods alone, whatever its guidance, and one of an
    unguided inversion unguided ones: the two rank images differently.

    Args:
        recorded: whether it knows of a recorded training of its model.

    >>> served_by(Side("inversion", "dps", 7.5), "probe")[:2]
    ['concept-trak', 'concept-trak-d']
    >>> served_by(Side("inversion", "dps"), "probe")[0]
    'concept-trak-unguided'
    >>> served_by(Side("noising", "dsm"), "none", checkpoints=3, curvature="ekfac")[:2]
    ['ekfac', 'ekfac-exact']
    """

    def serves(method: Method) -> bool:
        if checkpoints > 1 and method.one_model:
            return False
        if method.train is None:  # no features
            return recorded or not method.recorded
        same = _rows_of(method) == (train.kind(), normalise, curvature)
        return same and checkpoints >= method.checkpoints

    return [name for name, method in METHODS.items() if serves(method)]


def train_side(method: Method, guidance: float | None = None) -> Side:
    """What an index of this method holds, with this guidance of its inversion if not its own.

    Raises:
        MethodError: any index will do; or it does not invert, or with this guidance it is another
            method.

    >>> train_side(METHODS["concept-trak"], 3)
    Side(path='inversion', delta='dps', guidance=3.0)
    """
    train = method.train
    if train is None:
        raise MethodError(f"{method.name} needs no index of its own: ask any index with it")
    if guidance is None or not train.gradient:
        return train
    asked = replace(train, guidance=float(guidance))
    if asked.kind() == train.kind():
        return asked
    given = f"--inversion-guidance {asked.guidance:g}"
    if train.path != "inversion":
        raise MethodError(
            f"{given} is for methods that invert, and {method.name} does not: leave it out"
        )
    other = served_by(asked, method.normalise)[0]
    raise MethodError(
        f"{given} is of {other}, and {method.name} is "
        f"{'guided' if train.guided else 'unguided'}: give --method {other}"
    )


def choose(name: str | None, built_for: str, served: list[str], question: str) -> Method:
    """The method that answers this question: the one named, or the first that the index serves.

    Args:
        built_for: what the index was asked for; where that name has other features now, the index
            is taken to be for the first that it serves.

    Raises:
        MethodError: there is none; names what would work.
    """
    built_for = built_for if built_for in served else served[0]
    if name is None:
        takers = [row for row in map(method_named, [built_for, *served]) if question in row.takes]
        if takers and (takers[0].train is not None or not _by_features(question)):
            return takers[0]
        raise MethodError(
            f"an index built for {built_for} cannot be asked for {QUESTIONS[question]}: build "
            f"one for {_listed(question)}"
        )
    method = method_named(name)
    if question not in method.takes:
        raise MethodError(
            f"{name} cannot be asked for {QUESTIONS[question]}: these take it: "
            f"{_listed(question)}; {name} takes: {', '.join(method.takes)}"
        )
    if name not in served and method.recorded:
        raise MethodError(
            f"{name} derives a training that headwater.Recorder recorded, and this index knows of "
            "none (or is of several models): build it again with --run"
        )
    if name not in served and (method.train is None or _one_of_several(method, served)):
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


def usual_ask(name: str | None, built_for: str, served: Sequence[str]) -> str:
    """What is asked of a concept's words where nobody says it: what the method takes first.

    Args:
        name: of a method; None for the one that the index was built for.

    Returns:
        An output, for methods of influence; else "slider", the direction that the words lie in.

    Raises:
        MethodError: there is no such method.

    >>> usual_ask(None, "concept-trak", ["concept-trak"]), usual_ask("ekfac", "trak", ["trak"])
    ('slider', 'contribution')
    """
    built_for = built_for if built_for in served else served[0]
    return first_ask(method_named(name or built_for))


def first_ask(method: Method) -> str:
    """What a method asks of a concept's words where nobody says it; see `usual_ask`."""
    first = method.takes[0]
    return first if first in ("contribution", "loss") else "slider"


def _rows_of(method: Method) -> tuple[Any, ...]:
    """What tells the rows that it scores from others: those of equal ones share an index."""
    kind = None if method.train is None else method.train.kind()
    return kind, method.normalise, method.curvature


def _one_of_several(method: Method, served: Sequence[str]) -> bool:
    """Whether an index has the rows for it, and only too many models."""
    rows = [_rows_of(method_named(name)) for name in served]
    return method.one_model and _rows_of(method) in rows


def _by_features(question: str) -> bool:
    """Whether any method answers such a question by an index's features."""
    return any(question in method.takes and method.train for method in METHODS.values())


def _listed(question: str) -> str:
    answering = (row for row in METHODS.values() if question in row.takes)
    return ", ".join(row.name for row in answering if row.measure != "chance")


def measure(method: str) -> str:
    """What a method's scores are of: a key of `WORDING`."""
    return method_named(method).measure
