"""The table of methods: what is computed of a training image and of a query, and a score rule.

A method is one row. Paths are generators of `probes`, deltas functions of `guidance`, rules
functions of `rules`. Methods whose train sides are the same share an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headwater.errors import MethodError

# What a side costs for each probe, in forward passes: its own, backward to the input for a
# guidance of its own, backward to the layers; or forward passes at other prompts.
_UNITS = {"dps": 3, "reward": 3, "preference": 3, "concept": 3}


@dataclass(frozen=True)
class Side:
    """Where the probes of one side come from, and what is asked of the prediction there.

    The paths "pixels" and "clip" have no probes: the feature is the latent, or CLIP's embedding.
    """

    path: str
    delta: str = ""

    @property
    def gradient(self) -> bool:
        """Whether features are gradients of the network."""
        return bool(self.delta)

    @property
    def units(self) -> int:
        """Forward passes of the network for each probe."""
        return _UNITS.get(self.delta, 2) if self.gradient else 0


@dataclass(frozen=True)
class Method:
    """One row.

    Args:
        paper: where it comes from.
        train: what an index holds; None where any index will do (its images are enough).
        query: what is asked of an image; concepts, rewards and preferences bring their own delta.
        rule: a name of `rules.RULES`.
        takes: the kinds of question, of `QUESTIONS`.
        normalise: "probe": every probe's gradient has unit norm before the mean; "over_time": it
            is divided, feature by feature, by its l2 norm over the probes (DAS eq. 17); or "none".
        checkpoints: how many checkpoints the index must have, at least.
    """

    name: str
    paper: str
    train: Side | None
    query: Side | None
    rule: str
    takes: tuple[str, ...]
    normalise: str = "none"
    checkpoints: int = 1

    def facts(self) -> dict[str, Any]:
        """The row as `headwater methods` shows it; costs at ten timesteps."""
        return {
            "name": self.name,
            "paper": self.paper,
            "train": _said(self.train),
            "query": _said(self.query),
            "normalise": self.normalise,
            "rule": self.rule,
            "takes": list(self.takes),
            "units per image": _units(self.train),
            "units per draw": _units(self.query),
        }


# Kinds of question. "step" and "journey" are of a generated image's trajectory.
QUESTIONS = {
    "concept": "a concept inside a prompt",
    "image": "a whole image, generated or a file",
    "patch": "a part of an image (--mask)",
    "step": "one step of an image's making (--step)",
    "journey": "every step of an image's making (--journey)",
    "local": "a concept as one image shows it (--local)",
    "reward": "any score of images (--reward)",
    "preference": "pairs of better and worse images",
}
_GUIDED = ("concept", "local", "reward", "preference")
_PICTURE = ("image", "patch")

_NOISED, _INVERTED = Side("noising", "dsm"), Side("inversion", "dps")


def _on_images(name: str, paper: str, delta: str, rule: str = "trak", **options: Any) -> Method:
    """A method that asks the same of a training image and of the query's image."""
    side = Side("noising", delta)
    return Method(name, paper, side, side, rule, (*_PICTURE, "step"), **options)


def _concept_trak(name: str, paper: str, side: Side, normalise: str = "none") -> Method:
    """Concept-TRAK with this train side; concepts and rewards bring the query side."""
    takes = _GUIDED if side == _NOISED else (*_GUIDED, *_PICTURE)
    return Method(name, paper, side, side, "trak", takes, normalise)


METHODS = {
    method.name: method
    for method in (
        _concept_trak("concept-trak", "Park 2025", _INVERTED, "probe"),
        _concept_trak("concept-trak-a", "Park 2025, ablation", _NOISED),
        _concept_trak("concept-trak-b", "Park 2025, ablation", Side("noising", "dps")),
        _concept_trak("concept-trak-c", "Park 2025, ablation", _INVERTED),
        _concept_trak("concept-trak-d", "the same as concept-trak", _INVERTED, "probe"),
        _on_images("trak", "Park 2023", "dsm"),
        _on_images("d-trak", "Zheng 2024", "square"),
        _on_images("d-trak-square", "the same as d-trak", "square"),
        _on_images("d-trak-mean", "Zheng 2024", "mean"),
        _on_images("d-trak-l1", "Zheng 2024", "l1"),
        _on_images("d-trak-l2", "Zheng 2024", "l2"),
        _on_images("d-trak-linf", "Zheng 2024", "linf"),
        _on_images("d-trak-weighted", "Zheng 2024", "weighted"),
        _on_images("das", "Lin 2025, eq. 18", "random", "das", normalise="over_time"),
        _on_images("das-code", "Lin 2025, their code", "l1", "das-code", normalise="over_time"),
        _on_images(
            "das-concept-trak", "Park 2025, baseline", "l1", "das-concept-trak", normalise="none"
        ),
        Method(
            "journey-trak",
            "Georgiev 2023",
            _NOISED,
            Side("renoised", "dsm"),
            "trak",
            ("image", "patch", "step", "journey"),
        ),
        _on_images("gradient-dot", "Charpiat 2019", "dsm", "dot"),
        _on_images("gradient-cosine", "Charpiat 2019", "dsm", "cosine"),
        _on_images("tracin", "Pruthi 2020", "dsm", "dot", checkpoints=2),
        _on_images("gas", "Hammoudeh 2022", "dsm", "cosine", checkpoints=2),
        _on_images("relative-influence", "Barshan 2020", "dsm", "relative"),
        _on_images("renormalised-influence", "Hammoudeh 2022", "dsm", "renormalised"),
        Method("pixel-dot", "similarity", Side("pixels"), Side("pixels"), "dot", ("image",)),
        Method("pixel-cosine", "similarity", Side("pixels"), Side("pixels"), "cosine", ("image",)),
        Method("clip-dot", "similarity", Side("clip"), Side("clip"), "dot", ("image", "concept")),
        Method(
            "clip-cosine", "similarity", Side("clip"), Side("clip"), "cosine", ("image", "concept")
        ),
        Method(
            "unlearning",
            "Wang 2024, 4 passes per image and query",
            None,
            None,
            "unlearning",
            ("image", "concept"),
        ),
        Method("random", "-", None, None, "random", tuple(QUESTIONS)),
    )
}


def _said(side: Side | None) -> str:
    return "-" if side is None else f"{side.path}/{side.delta}" if side.delta else side.path


def _units(side: Side | None, timesteps: int = 10) -> int:
    """Forward passes for ten timesteps; an inversion begins with one more."""
    if side is None or not side.gradient:
        return 0
    return side.units * timesteps + (side.path == "inversion")


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
    return [
        name
        for name, method in METHODS.items()
        if method.train is None
        or (
            (method.train, method.normalise) == (train, normalise)
            and checkpoints >= method.checkpoints
        )
    ]


def choose(name: str | None, built_for: str, served: list[str], question: str) -> Method:
    """The method that answers this question: the one named, or the first that the index serves.

    Raises:
        MethodError: there is none; names what would work.
    """
    if name is None:
        order = [built_for, *served] if built_for in served else served
        takers = [row for row in map(method_named, order) if question in row.takes]
        if takers and takers[0].train is not None:
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
    if name not in served:
        more = " with --checkpoint" if method.checkpoints > 1 else ""
        raise MethodError(
            f"this index was built for {built_for} and serves {', '.join(served)}: build one with "
            f"`--method {name}`{more}"
        )
    return method


def _listed(question: str) -> str:
    return ", ".join(name for name, method in METHODS.items() if question in method.takes)
