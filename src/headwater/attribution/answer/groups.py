"""What groups of training images (an artist's, a folder's) scored together."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwater.attribution.answer.bootstrap import resampled
from headwater.attribution.scores import Scored
from headwater.errors import QueryError
from headwater.index.columns import values_of
from headwater.index.conditions import known_ids
from headwater.index.index import Index
from headwater.queries.pictures.grouped import read_groups

NONE = "(in no group)"
STRONGEST = 5  # images of a group that are named

# A kind of grouping: "folder" or another field of rows, a csv file, or name -> ids.
GroupBy = str | Path | Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Group:
    """A group of training images in an answer.

    Attributes:
        images: how many of those that competed.
        score: the sum over them: to first order, what leaving all of them out would change.
        share: of all groups, score / sum of |score|; 1 in all, if no group works against another.
        error, share_error: standard errors, by the bootstrap over draws; None where there was one.
        strongest: rows of its images with the highest scores, best first.
    """

    name: str
    images: int
    score: float
    share: float
    error: float | None
    share_error: float | None
    strongest: tuple[int, ...]

    @property
    def per_image(self) -> float:
        """The mean over its images."""
        return self.score / self.images


@dataclass(frozen=True)
class Grouping:
    """Which images are in which groups: pairs of a row and the number of a group."""

    names: tuple[str, ...]
    rows: Int[Tensor, " p"]
    groups: Int[Tensor, " p"]


def grouping_of(index: Index, by: GroupBy) -> Grouping:
    """The groups of an index's images, in the order of their first images.

    Args:
        by: a field of rows (`columns.values_of`), such as "folder" or "artist"; a csv file of
            columns `id` and `group`, where an image may be in several; or name -> ids. What is in
            no group is one of its own.

    Raises:
        QueryError: no such field, a file that cannot be read, no id of any image, or all are one.
        DatasetError: the data that has the field is not there any more.
    """
    if isinstance(by, Mapping):
        names = _by_ids(index, {name: set(ids) for name, ids in by.items()})
    elif Path(by).suffix == ".csv":
        names = _by_ids(index, read_groups(Path(by), "--group-by"))
    else:
        names = ((" | ".join(values) or NONE,) for values in values_of(index, str(by)))
    numbers: dict[str, int] = {}
    rows, groups = array("q"), array("q")
    for row, own in enumerate(names):
        for name in own:
            rows.append(row)
            groups.append(numbers.setdefault(name, len(numbers)))
    if len(numbers) < 2:
        raise QueryError(
            f"--group-by {by!s} puts every image into {next(iter(numbers))!r}: name a field that "
            "differs, or a csv file of id,group"
        )
    both = (torch.frombuffer(each, dtype=torch.int64) for each in (rows, groups))
    return Grouping(tuple(numbers), *both)


def _by_ids(index: Index, groups: Mapping[str, set[str]]) -> Iterator[tuple[str, ...]]:
    """The names of the groups that each row is in."""
    of: dict[str, list[str]] = {}
    for name, ids in groups.items():
        for id in sorted(ids):
            of.setdefault(id, []).append(name)
    known_ids(index, of)
    return (tuple(of.get(sample.id, (NONE,))) for sample in index.samples)


def group_scores(
    grouping: Grouping, scored: Scored, competing: Int[np.ndarray, " m"]
) -> tuple[Group, ...]:
    """What each group with an image that competed scored, the highest first.

    Args:
        scored: draw by draw.
    """
    pairs = torch.isin(grouping.rows, torch.from_numpy(competing))
    rows, groups = grouping.rows[pairs], grouping.groups[pairs]
    count = len(grouping.names)

    def sums(answers: Float[Tensor, "r n"]) -> Float[Tensor, "r g"]:
        zeros = torch.zeros(len(answers), count, dtype=torch.float64)
        return zeros.index_add_(1, groups, answers[:, rows].double())

    answer = scored.answer()
    total, images = sums(answer), torch.bincount(groups, minlength=count)
    errors = shares_errors = None
    if scored.draws.shape[-2] > 1:
        again = torch.cat([sums(answers) for answers in resampled(scored)])
        errors, shares_errors = again.std(0, correction=0), _shares(again).std(0, correction=0)
    scores, shares = total[0], _shares(total)[0]
    strongest = _strongest(answer[0], rows, groups, count)
    return tuple(
        Group(
            grouping.names[g],
            int(images[g]),
            float(scores[g]),
            float(shares[g]),
            None if errors is None else float(errors[g]),
            None if shares_errors is None else float(shares_errors[g]),
            strongest[g],
        )
        for g in scores.argsort(descending=True, stable=True).tolist()
        if images[g]
    )


def _shares(sums: Float[Tensor, "r g"]) -> Float[Tensor, "r g"]:
    return sums / sums.abs().sum(1, keepdim=True).clamp_min(torch.finfo(sums.dtype).tiny)


def _strongest(
    scores: Float[Tensor, " n"], rows: Int[Tensor, " p"], groups: Int[Tensor, " p"], count: int
) -> list[tuple[int, ...]]:
    """Of each group the rows with the highest scores."""
    order = scores[rows].argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]  # group by group
    images = torch.bincount(groups, minlength=count)
    place = torch.arange(len(order)) - (images.cumsum(0) - images)[groups[order]]
    best = order[place < STRONGEST]
    found: list[list[int]] = [[] for _ in range(count)]
    for row, group in zip(rows[best].tolist(), groups[best].tolist(), strict=True):
        found[group].append(row)
    return [tuple(each) for each in found]
