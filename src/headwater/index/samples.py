"""`samples.parquet`: which image of the data set each row of an index is of; and which set."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from headwater.data.training_set import Sample, TrainingSet
from headwater.errors import StoreError, first_line
from headwater.storage.files import arrow_array, sha256_of, write_tables
from headwater.storage.manifest import Manifest

_FILE = "samples.parquet"
# What columns are of, and whether there may be none.
_COLUMNS: Mapping[str, tuple[Callable[[pa.DataType], bool], bool]] = {
    "row": (pa.types.is_int64, False),
    "id": (pa.types.is_string, False),
    "caption": (pa.types.is_string, False),
    "uri": (pa.types.is_string, False),
    "captions": (lambda kind: kind == pa.list_(pa.string()), True),
    "repeats": (pa.types.is_int64, True),
    "content": (pa.types.is_string, True),
}
AT_A_TIME = 1 << 16  # rows of the table that are in memory
_KEPT = 4  # groups of so many rows that stay there


class RowSamples(NamedTuple):
    """What each row of an index is of, and which row of the data set that is.

    Attributes:
        removed: rows of the data set that are left out.
        inside: of each row of features on disk, whether it is not one of them; None if none is.
    """

    samples: Sequence[Sample] = ()
    positions: Sequence[int] = ()
    removed: frozenset[int] = frozenset()
    inside: Bool[np.ndarray, " n"] | None = None


class StoredSamples(Sequence[Sample]):
    """Samples that stay on disk; some are read when one of them is asked for.

    The file is held open, so that they are the same if another takes its place.

    Args:
        inside: of each row of the file, whether it is one of these; None for all.
    """

    def __init__(self, path: Path, inside: Bool[np.ndarray, " n"] | None = None) -> None:
        self.path = path
        self._file = pq.ParquetFile(path)
        about = self._file.metadata
        groups = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        self._masks: Sequence[np.ndarray | None] = [None] * len(groups)
        if inside is not None:
            self._masks = np.split(inside, list(accumulate(groups))[:-1])
            groups = [int(mask.sum()) for mask in self._masks]
        self._starts = list(accumulate(groups, initial=0))
        self._kept: dict[int, pa.Table] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, row: int) -> Sample: ...
    @overload
    def __getitem__(self, row: slice) -> list[Sample]: ...
    def __getitem__(self, row: int | slice) -> Sample | list[Sample]:
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        place = range(len(self))[row]
        group = bisect_right(self._starts, place) - 1
        return next(samples_of(self._group(group).slice(place - self._starts[group], 1)))

    def __iter__(self) -> Iterator[Sample]:
        for table in self.tables():
            yield from samples_of(table)

    def tables(self) -> Iterator[pa.Table]:
        """All of them by columns, some rows at a time: see `tables_of`."""
        return (self._group(group) for group in range(len(self._masks)))

    def _group(self, group: int) -> pa.Table:
        with self._lock:
            if group not in self._kept:
                self._kept[group] = self._read(group)
                for oldest in list(self._kept)[:-_KEPT]:
                    del self._kept[oldest]
            return self._kept[group]

    def _read(self, group: int) -> pa.Table:
        try:
            table = self._file.read_row_group(group, use_threads=False)
            _require_values(table)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(_unreadable(self.path, error)) from None
        mask = self._masks[group]
        return table if mask is None else table.filter(arrow_array(mask))


def samples_of(table: pa.Table) -> Iterator[Sample]:
    """The rows of such a table."""
    columns = table.to_pydict()
    several = map(tuple, columns.get("captions", [()] * len(table)))
    repeats = columns.get("repeats", [1] * len(table))
    named = (columns[name] for name in ("id", "caption", "uri"))
    return (Sample(*each) for each in zip(*named, several, repeats, strict=True))


def tables_of(samples: Sequence[Sample]) -> Iterator[pa.Table]:
    """Samples by columns, some rows at a time: those of `Sample`, where they say anything."""
    if isinstance(samples, StoredSamples):
        yield from samples.tables()
        return
    several = any(sample.captions for sample in samples)
    repeated = any(sample.repeats != 1 for sample in samples)
    left = iter(samples)
    while some := list(islice(left, AT_A_TIME)):
        captions = pa.array([list(sample.captions) for sample in some], pa.list_(pa.string()))
        yield pa.table({
            "id": [sample.id for sample in some],
            "caption": [sample.caption for sample in some],
            "uri": [sample.uri for sample in some],
            **({"captions": captions} if several else {}),
            **({"repeats": [sample.repeats for sample in some]} if repeated else {}),
        })  # fmt: skip


def shown_columns(table: pa.Table) -> dict[str, Any]:
    """What people see of samples: id, uri, and all captions in one line."""
    line = table["caption"]
    if "captions" in table.column_names:
        line = [sample.caption_line for sample in samples_of(table)]
    return {"id": table["id"], "caption": line, "uri": table["uri"]}


def rows_by_id(samples: Sequence[Sample], ids: Container[str]) -> dict[str, int]:
    """Where the samples with these ids stand, in their order; ids of none are left out."""
    each = (id for table in tables_of(samples) for id in table["id"].to_pylist())
    return {id: row for row, id in enumerate(each) if id in ids}


def data_facts(data: TrainingSet) -> dict[str, Any]:
    """What `index.json` says of the images."""
    return {
        "source": data.source,
        "options": dict(data.options),
        "fingerprint": data.fingerprint,
        "rows": len(data),
    }


def write_samples(
    folder: Path,
    samples: Sequence[Sample],
    positions: Sequence[int],
    contents: Sequence[int | str] = (),
) -> None:
    """Write the table; columns of all captions and of repeats only where an image has several.

    Args:
        contents: what stands for each picture in the fingerprint of the data, if anything does.
    """

    def with_rows() -> Iterator[pa.Table]:
        start = 0
        for table in tables_of(samples):
            own = slice(start, start + len(table))
            table = table.add_column(0, "row", pa.array(positions[own], pa.int64()))
            if contents:
                table = table.append_column("content", pa.array(map(str, contents[own])))
            yield table
            start += len(table)

    # rows stand in order, of which this encoding makes nearly nothing; ids are all different
    packed: dict[str, Any] = {"row": "DELTA_BINARY_PACKED"}
    tables = with_rows()
    write_tables(folder / _FILE, tables, column_encoding=packed, use_dictionary=["caption"])


def read_samples(folder: Path, manifest: Manifest, removed: frozenset[int]) -> RowSamples:
    """The table of a finished index, without some rows of the data set.

    Raises:
        StoreError: it is missing, damaged, or not what the manifest says.
    """
    path = folder / _FILE
    try:
        if sha256_of(path) != manifest.samples_sha256:
            raise ValueError("its checksum differs from index.json")
        # not `read_table`, which imports `pyarrow.dataset`, and that pandas
        with pq.ParquetFile(path) as file:
            _require_columns(file.schema_arrow)
            if file.metadata.num_rows != manifest.rows:
                raise ValueError(f"{file.metadata.num_rows} rows, not {manifest.rows}")
            rows = _numbers(file.read(["row"])["row"])
        _require_rows(rows, manifest)
        outside = np.isin(rows, list(removed))
        inside = ~outside if outside.any() else None
        samples = StoredSamples(path, inside)
    except MemoryError:  # Arrow's is an ArrowException too
        raise
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise StoreError(_unreadable(path, error)) from None
    positions = _compact(rows if inside is None else rows[inside])
    return RowSamples(samples, positions, removed, inside)


def _require_columns(schema: pa.Schema) -> None:
    """Refuse a table without a column, or with one of another type."""
    for name, (is_right, optional) in _COLUMNS.items():
        if name not in schema.names:
            if not optional:
                raise ValueError(f"it has no column {name}")
        elif not is_right(schema.field(name).type):
            raise ValueError(f"its column {name} is of {schema.field(name).type}")


def _require_values(table: pa.Table) -> None:
    """Refuse values that are missing, no UTF-8, or no number of times."""
    table.validate(full=True)
    inner = (
        [table["captions"].combine_chunks().flatten()] if "captions" in table.schema.names else []
    )
    if any(column.null_count for column in [*table.columns, *inner]):
        raise pa.ArrowInvalid("a value is missing")
    if "repeats" in table.schema.names and (_numbers(table["repeats"]) < 1).any():
        raise pa.ArrowInvalid("an image was seen less than once")


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers, by no way of pyarrow that imports pandas."""
    if column.null_count:
        raise ValueError("a number is missing")
    return np.from_dlpack(column.combine_chunks())


def _require_rows(rows: np.ndarray, manifest: Manifest) -> None:
    """Refuse rows that are not in the ranges of their shards, one after the other."""
    start, before = 0, -1
    for shard in manifest.shards:  # so that of millions no copy is made
        own = rows[start : start + shard.rows]
        start, end = start + shard.rows, shard.first + shard.rows + len(shard.skipped)
        if not len(own):
            continue
        ascends = bool((np.diff(own) > 0).all()) and before < own[0]
        if not (ascends and shard.first <= own[0] and own[-1] < end):
            raise ValueError("its rows are not those of the shards")
        before = own[-1]


def _unreadable(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read ({first_line(error)}): `headwater repair {path.parent}` writes it "
        "again"
    )


def _compact(rows: np.ndarray) -> Sequence[int]:
    """Rows of the data set, as a range where none is missing."""
    if np.array_equal(rows, np.arange(len(rows))):
        return range(len(rows))
    return array("q", rows.astype(np.int64).tobytes())


def count_repeats(folder: Path) -> dict[int, int]:
    """How many images of a finished index were seen how often; empty where each was seen once.

    A file that cannot be read says nothing here, and what is wrong with it in `read_samples`.
    """
    try:
        with pq.ParquetFile(folder / _FILE) as file:
            if "repeats" not in file.schema_arrow.names:
                return {}
            column = file.read(["repeats"]).column(0)
    except (OSError, pa.ArrowException):
        return {}
    return dict(sorted(Counter(column.to_pylist()).items()))
