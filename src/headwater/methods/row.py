"""What a row of the table of methods says, and what kinds of question there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from headwater.features.spec import DRAWS, TIMESTEPS, Side

# Kinds of question. "step" and "journey" are of a generated image's trajectory.
QUESTIONS = {
    "concept": "a concept inside a prompt",
    "contribution": "what a concept's words gain (--ask contribution)",
    "loss": "the loss on pictures of a concept (--ask loss)",
    "image": "a whole image, generated or a file",
    "patch": "a part of an image (--mask)",
    "step": "one step of an image's making (--step)",
    "journey": "every step of an image's making (--journey)",
    "groups": "groups of training images (--groups)",
    "local": "a concept as one image shows it (--local)",
    "reward": "any score of images (--reward)",
    "preference": "pairs of better and worse images",
    "feature": "a feature that was computed elsewhere (--feature)",
}
# What these questions ask, whatever they are compared with.
OWN = {
    "concept": Side("generation", "concept"),
    "contribution": Side("noising", "contribution"),
    "loss": Side("noising", "dsm"),
    "local": Side("generation", "concept"),
    "reward": Side("generation", "reward"),
    "preference": Side("inversion", "preference"),
    "feature": Side("feature"),
}


@dataclass(frozen=True)
class Cost:
    """Forward passes of the network that a question takes, once it is made.

    The picture that it is about and the token of a local concept are not counted.

    Args:
        draw: of each draw, or each pair of a preference.
        draws: how many by default; None for as many as there are pairs.
        image: of each training image.
        value: of each training image, for each value of the concept's kind.
        unnamed: at most, of each training image whose caption names no such value, for each value.
        shown: of each training image, each time that the recorded training showed it.
    """

    draw: int = 0
    draws: int | None = 1
    image: int = 0
    value: int = 0
    unnamed: int = 0
    shown: int = 0

    def __str__(self) -> str:
        looked = f"{self.value}nv" if self.value else f"{self.unnamed}uv" if self.unnamed else ""
        if looked:
            return f"{self.draws}x{self.draw}+{looked}" if self.draw else looked
        if not self.draw:
            return f"{self.image}n" if self.image else "-"
        drawn = f"{self.draws}x{self.draw}" if self.draws != 1 else f"{self.draw}"
        drawn = f"{self.draw} a pair" if self.draws is None else drawn
        if self.shown:
            return f"{drawn}+{self.shown}s"
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
        curvature: "kfac" or "ekfac": rows are in the metric of the loss's curvature; or "".
        damping: the usual one, as a multiple of the kernel's mean eigenvalue, or of the mean moment
            of each layer's curvature.
        part: what is asked of a part of an image that has a prompt, if not `query`.
        concept: what is asked of a concept, if not `OWN`.
        scorer: a name of `attribution.scorers.SCORERS`: what answers questions by this method.
        measure: what scores measure, a key of `report.wording.WORDING`.
        alias_of: the method that this is a second name of.
        one_model: whether several checkpoints mean nothing to it.
        recorded: whether the index must know of a recorded training.
        passes: forward passes for each training image, where the method makes them itself.
        rereads: whether each question opens every training image.
        sooner: the method by which a first answer is shown where this one takes its time: one that
            takes the same questions, and asks them of the same rows; "" for this one.
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
    curvature: str = ""
    damping: float = 0.1
    part: Side | None = None
    concept: Side | None = None
    scorer: str = "gradient"
    measure: str = "influence"
    alias_of: str = ""
    one_model: bool = False
    recorded: bool = False
    passes: int = 0
    rereads: bool = False
    sooner: str = ""
    costs: tuple[tuple[str, Cost], ...] = ()

    @property
    def slow(self) -> bool:
        """Whether each question takes a look at, or forward passes of, every training image."""
        return self.rereads or any(
            cost.image or cost.value or cost.unnamed or cost.shown for _, cost in self.costs
        )

    @property
    def scores_rows(self) -> bool:
        """Whether scores are made of the rows of an index."""
        return self.train is not None and self.scorer != "exact"

    def asks(self, question: str, prompted: bool = True) -> Side | None:
        """What is asked of a question of this kind, with a prompt that the model reads or without.

        Without one there is nothing to set against the empty prompt.
        """
        if question == "patch" and prompted and self.part is not None:
            return self.part
        if question == "concept" and self.concept is not None:
            return self.concept
        if self.train is None or not self.train.gradient:
            return self.query
        side = OWN.get(question, self.query)
        if side is not None and side.path == "inversion":  # guided as training images are
            side = replace(side, guidance=self.train.guidance)
        return side

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
            "paper": f"same as {self.alias_of}" if self.alias_of else self.paper,
            "train": str(self.train or "-"),
            "normalise": self.normalise,
            "curvature": self.curvature or "none",
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
