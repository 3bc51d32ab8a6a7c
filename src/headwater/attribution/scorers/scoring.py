"""What every scorer is given and gives back: scores by draws, and how they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.attribution.scores import RULES, Scored, mean_over_checkpoints
from headwater.methods.row import Method
from headwater.queries.query import Description, Question


@dataclass(frozen=True)
class ScoringOptions:
    """How scores are to be computed.

    Attributes:
        dampings: lambdas as multiples of the kernel's mean eigenvalue; the first is the answer's.
        among: rows of the candidates; None where all images compete.
        fresh: compute the query's gradient again.
        note: is told what the user may want to know.
    """

    dampings: tuple[float, ...]
    among: Sequence[int] | None = None
    fresh: bool = False
    note: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Scoring:
    """Scores at each damping.

    Attributes:
        description: how the question was asked.
        draws: how many were made.
        once: why the answer does not come draw by draw; "" where it does.
        cached: whether the query's gradient was there already.
        remarks: what a reader must know of the question, sentence by sentence.
        feature: the question's own, the mean over draws; None where several models were asked, or
            none was, or images are asked about by other draws each.
        among: rows that were scored, where others are of no concern to the question; they rank
            below these, whatever stands for their scores.
    """

    scored: dict[float, Scored]
    description: Description
    draws: int = 1
    once: str = ""
    cached: bool = False
    remarks: tuple[str, ...] = ()
    feature: Float[Tensor, " k"] | None = None
    among: Sequence[int] | None = None


Scorer = Callable[[Resources, Method, Question, ScoringOptions], Scoring]
# The same of several questions by one method, which may share what takes time.
Asked = Sequence[tuple[Question, ScoringOptions]]
ScorerOfAll = Callable[[Resources, Method, Asked], list[Scoring]]


def score_rows(
    resources: Resources, method: Method, psi: Sequence[Tensor], dampings: Sequence[float]
) -> dict[float, Scored]:
    """The rule's scores of query rows, the mean over checkpoints, at each damping.

    Args:
        psi: for each member of the index its query rows, [q, k].
    """
    return score_all_rows(resources, method, [psi], dampings)[0]


def score_all_rows(
    resources: Resources,
    method: Method,
    questions: Sequence[Sequence[Tensor]],
    dampings: Sequence[float],
) -> list[dict[float, Scored]]:
    """The same of several questions, in one pass over the rows of each member."""
    found: list[list[dict[float, Scored]]] = []
    for number, member in enumerate(resources.members):
        rows = [psi[number] for psi in questions]
        found.append(RULES[method.rule].score_all(member.kernel(), rows, dampings))
        release_checkpoint(resources, member)
    return [
        {ratio: mean_over_checkpoints([each[ratio] for each in of_members]) for ratio in dampings}
        for of_members in zip(*found, strict=True)
    ]


def mean_feature(psi: Sequence[Tensor]) -> Float[Tensor, " k"] | None:
    """The mean of the query rows of one model, [q, k]; None where there are several models."""
    return psi[0].mean(0) if len(psi) == 1 else None


def release_checkpoint(resources: Resources, member: Resources) -> None:
    """Only one checkpoint's model and kernel are in memory at a time, beside the index's own."""
    if member is not resources:
        member.release()
