"""Some rows of an index: those that fulfil conditions, those with certain ids."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from headwater.errors import HeadwaterWarning, QueryError, first_line
from headwater.index.columns import values_of
from headwater.index.index import Index
from headwater.index.samples import rows_by_id

# What may stand between a field and a value: (what a row has, the value) -> whether it fulfils it.
TESTS: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda has, value: value.casefold() in has.casefold(),
    "is": lambda has, value: has == value,
    "matches": fnmatchcase,  # *, ? and [...], as in a shell
}
_FORM = re.compile(rf"\s*(\S+)\s+(not\s+)?({'|'.join(TESTS)})\s+(.*?)\s*", re.DOTALL)


class Condition(NamedTuple):
    """FIELD [not] TEST VALUE."""

    field: str
    test: str
    value: str
    wanted: bool = True


def condition(text: str) -> Condition:
    """A condition in words.

    Raises:
        QueryError: it has another form.

    >>> condition("caption not contains red star")
    Condition(field='caption', test='contains', value='red star', wanted=False)
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise QueryError(
            f"--where {text!r} must be FIELD [not] {'|'.join(TESTS)} VALUE, such as 'caption "
            "contains star' or 'folder is cats'"
        )
    field, negated, test, value = found.groups()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return Condition(field, test, value, not negated)


def rows_where(index: Index, conditions: Sequence[str]) -> list[int]:
    """The rows that fulfil all of some conditions.

    Of several captions one is enough to fulfil a condition, and none may for its `not`.

    Raises:
        QueryError: a condition has another form, or names no field.
        DatasetError: a column is asked for of data that is not there any more.
    """
    rows = list(range(len(index)))
    for field, test, value, wanted in map(condition, conditions):
        left, fulfils = set(rows), TESTS[test]
        rows = [
            row
            for row, values in enumerate(values_of(index, field))
            if row in left and any(fulfils(has, value) for has in values) == wanted
        ]
    return rows


def rows_of_ids(index: Index, ids: Sequence[str] | Path) -> list[int]:
    """The rows with these ids, in the order of the index; others are said in a `HeadwaterWarning`.

    Args:
        ids: or a file with one id on each line.

    Raises:
        QueryError: the file cannot be read, or no id is of any row.
    """
    wanted = read_ids(ids) if isinstance(ids, Path) else set(ids)
    return known_ids(index, wanted)


def known_ids(index: Index, ids: Collection[str]) -> list[int]:
    """The rows with these ids; says which are of no image, such as one that was removed.

    Raises:
        QueryError: none is of any.
    """
    wanted = set(ids)
    rows = rows_by_id(index.samples, wanted)
    strange = sorted(wanted - rows.keys())
    if not strange and ids:
        return list(rows.values())
    such = f", such as {strange[0]!r}" if strange else ""
    said = f"{len(strange):,} of {len(ids):,} ids are of no image of {index.path}{such}"
    if len(strange) == len(ids):
        raise QueryError(f"{said}: give ids as `scores.parquet` of any answer has them")
    warnings.warn(said, HeadwaterWarning, stacklevel=3)
    return list(rows.values())


def read_ids(file: Path) -> set[str]:
    """The ids in a file, one on each line; empty lines say nothing.

    Raises:
        QueryError: it cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"cannot read the ids in {file}: {first_line(error)}") from None
    return {line for line in map(str.strip, lines) if line}
