"""Rows of tables that hold text, one after the other: CSV, JSON lines, JSON, parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.errors import DatasetError, first_line

_FORM = 'such as {"file_name": "a.png", "text": "a cat"}'


@dataclass(frozen=True)
class Row:
    """One row by the names of its columns; `where` it stands is for people."""

    values: Mapping[str, Any]
    where: str


def rows_of(file: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a table, by the suffix of its name; one of `SUFFIXES`.

    Args:
        file: the table, in UTF-8 where it is text.
        columns: which of them are wanted, None for all; others may be left out.

    Raises:
        DatasetError: it cannot be read, or a row of it; said when the row is asked for.
    """
    try:
        yield from _READERS[file.suffix.lower()](file, columns)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: {first_line(error)}; save it as UTF-8 text") from error


def _json_lines(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{file} line {number}"
                yield Row(_object(where, lambda text=line: json.loads(text)), where)


def _json(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    """A list of objects; or objects line by line, which are called `.json` as well."""
    with file.open(encoding="utf-8-sig") as text:
        try:
            rows = json.load(text)
        except UnicodeDecodeError:
            raise
        except ValueError:
            rows = None
    if not isinstance(rows, list):
        yield from _json_lines(file, columns)
        return
    for number, row in enumerate(rows):
        where = f"{file} row {number}"
        yield Row(_object(where, lambda row=row: row), where)


def _object(where: str, read: Callable[[], Any]) -> Mapping[str, Any]:
    try:
        values = read()
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise DatasetError(f"{where}: write a JSON object, {_FORM}")
    return values


def _csv(file: Path, columns: Sequence[str] | None, delimiter: str = ",") -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.DictReader(text, delimiter=delimiter)
        try:
            for row in lines:
                yield Row(row, f"{file} line {lines.line_num}")
        except csv.Error as error:
            where = f"{file} line {lines.line_num}"
            raise DatasetError(f"{where}: {error}; write the table again") from error


def _tabs(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    return _csv(file, columns, "\t")


def _parquet(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            there = opened.schema_arrow.names
            wanted = [name for name in there if columns is None or name in columns]
            number = 0
            for batch in opened.iter_batches(1024, columns=wanted):
                for values in batch.to_pylist():
                    yield Row(values, f"{file} row {number}")
                    number += 1
    except MemoryError:  # Arrow's is an ArrowException too
        raise
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {file} ({first_line(error)}): write it again") from error


_READERS: dict[str, Callable[[Path, Sequence[str] | None], Iterator[Row]]] = {
    ".csv": _csv,
    ".tsv": _tabs,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
SUFFIXES = tuple(_READERS)
