"""The table of methods: what is computed of a training image and of a query, and a score rule.

A method is one row, with all that is said of it anywhere. Paths are generators of
`features.probes`, deltas functions of `features.guidance`, rules rows of `attribution.scores`; the
scorer, a name of `attribution.scorers`, joins them. Methods of equal train sides share an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headwater.errors import MethodError
from headwater.features.spec import DRAWS, TIMESTEPS, Side


@dataclass(frozen=True)
class Cost:
    """Forward passes of the network that a question takes, once it is made.

    The picture that it is about and the token of a local concept are not counted.

    Args:
        draw: of each draw, or each pair of a preference.
        draws: how many by default; None for as many as there are pairs.
        image: of each training image.
    """

    draw: int = 0
    draws: int | None = 1
    image: int = 0

    def __str__(self) -> str:
        if not self.draw:
            return "-"
        drawn = f"{self.draws}x{self.draw}" if self.draws != 1 else f"{self.draw}"
        drawn = f"{self.draw} a pair" if self.draws is None else drawn
        return f"{drawn}+{self.image}n" if self.image else drawn


@dataclass(frozen=True)
class Method:
    """One row.

    Args:
        paper: where it comes from.
        train: what an index holds; None where any index will do (its images are enough).
        query: what is asked of an image; None where the method takes none. Other questions bring
            their own guidance (`OWN`) to methods of gradients.
        rule: a name of `attribution.scores.RULES`, or of the scorer where it has a rule of its own.
        takes: the kinds of question, of `QUESTIONS`.
        normalise: "probe": every probe's gradient has unit norm before the mean; "over_time": it
            is divided, feature by feature, by its l2 norm over the probes (DAS eq. 17); or "none".
        checkpoints: how many checkpoints the index must have, at least.
        part: what is asked of a part of an image that has a prompt, if not `query`.
        concept: what is asked of a concept, if not `OWN`.
        scorer: a name of `attribution.scorers.SCORERS`: what answers questions by this method.
        measure: what scores measure, a key of `report.wording.WORDING`.
        alias_of: the method that this is a second name of.
        one_model: whether several checkpoints mean nothing to it.
        passes: forward passes for each training image, where the method makes them itself.
        costs: (kind of question, cost), where sides do not say it.
    """

    name: str
    paper: str
    train: Side | None
    query: Side | None
    rule: str
    takes: tuple[str, ...]
    normalise: str = "none"
    checkpoints: int = 1
    part: Side | None = None
    concept: Side | None = None
    scorer: str = "gradient"
    measure: str = "influence"
    alias_of: str = ""
    one_model: bool = False
    passes: int = 0
    costs: tuple[tuple[str, Cost], ...] = ()

    @property
    def slow(self) -> bool:
        """Whether each question costs forward passes of every training image."""
        return any(cost.image for _, cost in self.costs)

    def asks(self, question: str, prompted: bool = True) -> Side | None:
        """What is asked of a question of this kind, with a prompt that the model reads or without.

        Without one there is nothing to set against the empty prompt.
        """
        if question == "patch" and prompted and self.part is not None:
            return self.part
        if question == "concept" and self.concept is not None:
            return self.concept
        gradient = self.train is not None and self.train.gradient
        return OWN.get(question, self.query) if gradient else self.query

    def cost(self, question: str, timesteps: int = TIMESTEPS) -> Cost:
        """What a question of this kind costs."""
        if own := dict(self.costs).get(question):
            return own
        side = self.asks(question)
        if side is None or not side.gradient:
            return Cost()
        if question == "preference":
            return Cost(2 * side.units(timesteps), None)
        units = side.units(1 if question == "step" else timesteps)
        return Cost(units, 1 if side.path == "inversion" else DRAWS)

    def facts(self) -> dict[str, Any]:
        """The row as `headwater methods` shows it."""
        return {
            "name": self.name,
            "paper": f"the same as {self.alias_of}" if self.alias_of else self.paper,
            "train": str(self.train or "-"),
            "normalise": self.normalise,
            "rule": self.rule,
            "takes": list(self.takes),
            "checkpoints": self.checkpoints,
            "units per image": self.passes if self.train is None else self.train.units(),
            "queries": {question: self._query(question) for question in self.takes},
        }

    def _query(self, question: str) -> dict[str, Any]:
        cost = self.cost(question)
        return {
            "guidance": str(self.asks(question) or "-"),
            "draws": cost.draws,
            "units per draw": cost.draw,
            "units per image": cost.image,
            "cost": str(cost),
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
    "feature": "a feature that was computed elsewhere (--feature)",
}
# What these questions ask, whatever they are compared with.
OWN = {
    "concept": Side("generation", "concept"),
    "local": Side("generation", "concept"),
    "reward": Side("generation", "reward"),
    "preference": Side("inversion", "preference"),
    "feature": Side("feature"),
}
_PICTURE = ("image", "patch")
_NOISED, _INVERTED = Side("noising", "dsm"), Side("inversion", "dps")

# Of unlearning: losses at four timesteps, of each training image forward, of each draw forward and
# back; a concept's draws are pictures, made in 25 steps with guidance.
_LOSSES = 4
_UNLEARNING = (
    ("image", Cost(2 * _LOSSES, DRAWS, _LOSSES)),
    ("concept", Cost(2 * _LOSSES + 2 * 25, DRAWS, _LOSSES)),
)
_SQUARES: dict[str, Any] = {"normalise": "over_time", "measure": "strength"}


def _on_images(name: str, paper: str, delta: str, rule: str = "trak", **options: Any) -> Method:
    """A method that asks the same of a training image and of the query's image."""
    side = Side("noising", delta)
    return Method(name, paper, side, side, rule, (*_PICTURE, "step"), **options)


def _concept_trak(
    name: str, paper: str, side: Side, normalise: str = "none", **options: Any
) -> Method:
    """Concept-TRAK with this train side. Asked of an image, plain noising would be TRAK."""
    if side == _NOISED:
        return Method(name, paper, side, None, "trak", tuple(OWN), normalise, **options)
    options |= {"part": Side("noising", "concept")}
    return Method(name, paper, side, side, "trak", (*OWN, *_PICTURE), normalise, **options)


def _concept_d_trak(name: str, concept: Side, **options: Any) -> Method:
    """Features of D-TRAK, asked for a concept."""
    side = Side("noising", "square")
    return Method(name, "ours", side, None, "trak", ("concept",), concept=concept, **options)


def _similarity(name: str, path: str, rule: str, takes: tuple[str, ...]) -> Method:
    """A method that compares pictures, and asks nothing of the model."""
    own: Any = dict(scorer="similarity", measure="similarity")
    return Method(name, "similarity", Side(path), Side(path), rule, takes, **own)


METHODS = {
    method.name: method
    for method in (
        _concept_trak("concept-trak", "Park 2025", _INVERTED, "probe"),
        _concept_trak("concept-trak-a", "Park 2025, ablation", _NOISED),
        _concept_trak("concept-trak-b", "Park 2025, ablation", Side("noising", "dps")),
        _concept_trak("concept-trak-c", "Park 2025, ablation", _INVERTED),
        _concept_trak("concept-trak-d", "Park 2025", _INVERTED, "probe", alias_of="concept-trak"),
        _on_images("trak", "Park 2023", "dsm"),
        _on_images("d-trak", "Zheng 2024", "square"),
        _on_images("d-trak-square", "Zheng 2024", "square", alias_of="d-trak"),
        _on_images("d-trak-mean", "Zheng 2024", "mean"),
        _on_images("d-trak-l1", "Zheng 2024", "l1"),
        _on_images("d-trak-l2", "Zheng 2024", "l2"),
        _on_images("d-trak-linf", "Zheng 2024", "linf"),
        _on_images("d-trak-weighted", "Zheng 2024", "weighted"),
        _on_images("das", "Lin 2025, eq. 18", "random", "das", **_SQUARES),
        _on_images("das-code", "Lin 2025, their code", "l1", "das-code", **_SQUARES),
        _on_images("das-concept-trak", "Park 2025, baseline", "l1", "das-concept-trak"),
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
        _concept_d_trak("concept-d-trak", Side("generation", "contrast")),
        _concept_d_trak("caption-d-trak", Side("captions"), scorer="captions", measure="captions"),
        _similarity("pixel-dot", "pixels", "dot", ("image",)),
        _similarity("pixel-cosine", "pixels", "cosine", ("image",)),
        _similarity("clip-dot", "clip", "dot", ("image", "concept")),
        _similarity("clip-cosine", "clip", "cosine", ("image", "concept")),
        Method(
            "unlearning",
            "Wang 2024",
            None,
            _NOISED,
            "unlearning",
            ("image", "concept"),
            scorer="unlearning",
            one_model=True,
            passes=_LOSSES,  # kept for all questions
            costs=_UNLEARNING,
        ),
        Method(
            "random", "-", None, None, "random", tuple(QUESTIONS), scorer="random", measure="chance"
        ),
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


def _listed(question: str) -> str:
    return ", ".join(name for name, method in METHODS.items() if question in method.takes)


def measure(method: str) -> str:
    """What a method's scores are of: a key of `WORDING`."""
    return method_named(method).measure
