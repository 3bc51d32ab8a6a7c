"""Which of these groups of training images taught the model a picture?"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from headwater.data.training_set import Sample
from headwater.errors import QueryError
from headwater.queries.image import Image
from headwater.queries.words.prompts import contains

COLUMNS = ("id", "group")


@dataclass(frozen=True)
class Grouping:
    """Groups of the images of an index.

    Attributes:
        names: of the groups.
        members: of each image, whether it is in each group.
        remarks: what the reader of an answer must know, sentence by sentence.
    """

    names: tuple[str, ...]
    members: Bool[Tensor, "n g"]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupedImage(Image):
    """Which groups of training images taught the model this picture?

    Args:
        groups: a csv file of columns `id` and `group`; or words with commas between them, each the
            group of the images whose caption names it; or, in Python, name -> ids.

    Raises:
        QueryError: no groups, a file that cannot be read, or a part or a step of a picture.

    >>> GroupedImage("a red star", groups="star, heart").kind
    'groups'
    """

    groups: str | Path | Mapping[str, Sequence[str]] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None or self.step is not None:
            raise QueryError("--groups are of a whole picture: leave out --mask and --step")
        if not self.groups:
            raise QueryError("--groups is empty: give a csv file of id,group, or words of captions")

    @property
    def kind(self) -> str:
        """Which of the kinds of question it is."""
        return "groups"

    def grouping(self, samples: Sequence[Sample]) -> Grouping:
        """The groups, among these images.

        Raises:
            QueryError: a group is empty or holds every image, or the file cannot be read.
        """
        if isinstance(self.groups, Mapping):
            return _by_ids({name: set(ids) for name, ids in self.groups.items()}, samples)
        if Path(self.groups).suffix == ".csv":
            return _by_ids(read_groups(Path(self.groups)), samples)
        words = dict.fromkeys(word.strip() for word in str(self.groups).split(",") if word.strip())
        named = [
            [any(contains(t, word) for t in s.all_captions) for word in words] for s in samples
        ]
        return _grouping(tuple(words), torch.tensor(named).reshape(len(samples), len(words)))

    def details(self) -> dict[str, Any]:
        """What is asked about, for provenance."""
        asked = self.groups if isinstance(self.groups, Mapping) else str(self.groups)
        return {**super().details(), "asked of groups": asked}


def read_groups(file: Path, option: str = "--groups") -> dict[str, set[str]]:
    """The ids of each group, from a csv file of columns `id` and `group`.

    Raises:
        QueryError: it cannot be read, or lacks a column; `option` is named.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise QueryError(
                    f"{option} {str(file)!r} has no column {missing[0]!r}: its first line must "
                    f"name {' and '.join(COLUMNS)}"
                )
            groups: dict[str, set[str]] = {}
            for row in rows:
                groups.setdefault(row["group"], set()).add(row["id"])
            return groups
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise QueryError(f"cannot read {option} {str(file)!r}: {error}") from None


def _by_ids(groups: Mapping[str, set[str]], samples: Sequence[Sample]) -> Grouping:
    named, known = set().union(*groups.values()), {sample.id for sample in samples}
    members = [[sample.id in ids for ids in groups.values()] for sample in samples]
    table = torch.tensor(members).reshape(len(samples), len(groups))
    strange = sorted(named - known)
    remarks = []
    if strange:
        remarks.append(
            f"{len(strange):,} of {len(named):,} ids in groups are of no image of the index, such "
            f"as {strange[0]!r}"
        )
    return _grouping(tuple(groups), table, remarks)


def _grouping(
    names: tuple[str, ...], members: Bool[Tensor, "n g"], remarks: Sequence[str] = ()
) -> Grouping:
    """Checked, with what must be said of it."""
    sizes = members.sum(0).tolist()
    for name, size in zip(names, sizes, strict=True):
        if size in (0, len(members)):
            which = "no image" if not size else "every image"
            raise QueryError(
                f"{which} of the index is in the group {name!r}: give groups that some are in and "
                "some are not"
            )
    if not names:
        raise QueryError("--groups names no group: give a csv file of id,group, or words")
    counts = members.sum(1)
    said = list(remarks)
    if none := int((counts == 0).sum()):
        said.append(f"{none:,} of {len(members):,} images are in no group: they rank last")
    if several := int((counts > 1).sum()):
        said.append(f"{several:,} images are in several groups: their score is the mean of these")
    return Grouping(names, members, tuple(said))
