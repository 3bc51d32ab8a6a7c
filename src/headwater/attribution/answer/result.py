"""The answer to one query: a score for every training image, and who ranks where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headwater.attribution.answer.bootstrap import Certainty
from headwater.attribution.answer.groups import Group
from headwater.errors import QueryError
from headwater.index.index import Index
from headwater.queries.query import Question


@dataclass(frozen=True)
class Ranked:
    """One training image in an answer. `row` is its row in the index.

    `error` is the score's standard error and `stays` the share of resampled answers that keep the
    image in their top ten; both None where there were no draws to tell apart.

    Example:
        best = answer.top(1)[0]
        print(best.rank, best.id, f"{best.score:.2f} +- {best.error:.2f}", best.caption)
    """

    rank: int
    id: str
    score: float
    caption: str
    uri: str
    row: int
    error: float | None = None
    stays: float | None = None


@dataclass(frozen=True)
class Attribution:
    """The answer to one query: a score for every training image, in index order.

    A positive score is a proponent: training on that image moves the model towards what was asked
    for. Scores compare within one answer only.

    Attributes:
        asked: how it was asked, in words that go on from "asked".
        certainty: how much the answer depends on which draws were made; None if there was one.
        sweep: the scores at each of several dampings, where they were asked for.
        among: the rows of the candidates, where not all images competed; none of the others ranks
            above one of them, whatever it scores.
        unsure: why there is no certainty, in words; "" where there is.
        remarks: what a reader must know of the question, sentence by sentence.
        groups: what groups of images scored together, where they were asked for.
        left_out: what the images that were left out of the competition scored together; None where
            none was.
        feature: the question's own, the mean over its draws, to be compared with rows of the index;
            None where it has none, or several: one for each of several models, or others for
            training images on whose pictures it was asked.

    Example:
        answer = session.attribute(Contribution("a red star", "star"))
        ids = [entry.id for entry in answer.top(10)]
        lowest = answer.bottom(3)
        of_row_0 = answer.scores[0]
    """

    query: Question
    asked: str
    method: str
    scores: Float[np.ndarray, " n"]
    index: Index
    provenance: dict[str, Any]
    certainty: Certainty | None = None
    sweep: dict[float, Float[np.ndarray, " n"]] = field(default_factory=dict)
    among: tuple[int, ...] | None = None
    unsure: str = ""
    remarks: tuple[str, ...] = ()
    feature: Float[np.ndarray, " k"] | None = None
    groups: tuple[Group, ...] = ()
    left_out: Group | None = None

    @property
    def competing(self) -> Int[np.ndarray, " m"]:
        """The rows of the images that competed, in index order."""
        return np.arange(len(self.scores)) if self.among is None else np.sort(self.among)

    def order(
        self, scores: Float[np.ndarray, " n"] | None = None, count: int | None = None
    ) -> Int[np.ndarray, " r"]:
        """Rows by rank, by these scores or the answer's own: candidates before all others.

        Equal scores stand in index order.

        Args:
            count: of the highest; no more are sorted. All by default.
        """
        scores = self.scores if scores is None else scores
        left = len(scores) if count is None else count
        inside = np.ones(len(scores), bool) if self.among is None else np.zeros(len(scores), bool)
        inside[list(self.among or ())] = True
        found = []
        for rows in map(np.flatnonzero, (inside, ~inside)):
            found.append(rows[leading(scores[rows], left)])
            left -= len(found[-1])
        return np.concatenate(found)

    def top(self, count: int = 10) -> list[Ranked]:
        """The strongest proponents of those that competed, best first.

        Raises:
            QueryError: the count is negative.
        """
        _require_count(count)
        return self._ranked(self.order(count=min(count, len(self.competing))))

    def bottom(self, count: int = 10) -> list[Ranked]:
        """The strongest opponents of those that competed, lowest score first.

        Ranks count from the bottom.

        Raises:
            QueryError: the count is negative.
        """
        _require_count(count)
        rows = self.competing
        return self._ranked(rows[leading(-self.scores[rows], count)])

    def _ranked(self, rows: Int[np.ndarray, " r"]) -> list[Ranked]:
        samples, sure = self.index.samples, self.certainty
        return [
            Ranked(
                rank,
                samples[row].id,
                float(self.scores[row]),
                samples[row].caption_line,
                samples[row].uri,
                int(row),
                None if sure is None else float(sure.errors[row]),
                None if sure is None else sure.stays.get(int(row)),
            )
            for rank, row in enumerate(rows, 1)
        ]


def leading(scores: Float[np.ndarray, " m"], count: int) -> Int[np.ndarray, " c"]:
    """Where the highest scores stand, the highest first, equal ones in their order.

    No more of them are sorted than that.

    >>> leading(np.array([1.0, 3.0, 2.0, 3.0]), 3).tolist()
    [1, 3, 2]
    """
    if count <= 0:
        return np.arange(0)
    chosen = np.arange(len(scores))
    if count < len(scores):
        least = np.partition(scores, -count)[-count]
        chosen = np.flatnonzero(scores >= least)
    return chosen[np.argsort(-scores[chosen], kind="stable")][:count]


def _require_count(count: int) -> None:
    if count < 0:  # a slice would count from the other end
        raise QueryError(f"{count} images cannot be ranked: give 0 or more")
