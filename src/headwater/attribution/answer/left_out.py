"""Images that whoever asks leaves out of the competition: what if the model had not seen them?

They keep their scores and rank nowhere. To first order, the sum of these scores is what the model
would lack without them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headwater.attribution.answer.groups import NONE, Group, Grouping, group_scores
from headwater.attribution.scores import Scored
from headwater.errors import QueryError
from headwater.index.index import Index
from headwater.index.samples import rows_by_id

LEFT_OUT = "left out"


def rows_left_out(index: Index, ids: Sequence[str]) -> list[int]:
    """The rows of images that are left out.

    Raises:
        QueryError: an id is of no image.
    """
    rows = rows_by_id(index.samples, set(ids))
    strange = set(ids) - rows.keys()
    if strange:
        raise QueryError(f"{min(strange)!r} is no image of this index: leave out those that it has")
    return sorted(rows.values())


def others(rows: Sequence[int], left_out: Sequence[int]) -> list[int]:
    """The rows that compete without those left out.

    Raises:
        QueryError: none does.
    """
    out = set(left_out)
    competing = [row for row in rows if row not in out]
    if not competing:
        raise QueryError("every image is left out: put one back")
    return competing


def left_out_score(scored: Scored, left_out: Sequence[int], competing: Sequence[int]) -> Group:
    """What the images left out score together; the share is of them and of those that compete."""
    rows = torch.tensor([*left_out, *competing])
    numbers = torch.tensor([0] * len(left_out) + [1] * len(competing))
    both = group_scores(Grouping((LEFT_OUT, NONE), rows, numbers), scored, rows.numpy())
    return next(group for group in both if group.name == LEFT_OUT)
