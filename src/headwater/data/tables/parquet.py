"""Parquet files as a training set: opened by their footers, images read one row group at a time."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from headwater.data.folders import splits
from headwater.data.folders.listing import IMAGE_KINDS, file_size, warn_of_skipped_folders
from headwater.data.images import to_rgb
from headwater.data.request import Request
from headwater.data.tables.arrow import (
    Columns,
    column_of_images,
    find_columns,
    has_text,
    read_samples,
    stored,
)
from headwater.data.tables.paths import PATH_COLUMNS, from_rows, parquet_rows
from headwater.data.training_set import TrainingSet, make_training_set
from headwater.errors import DatasetError, first_line

_PIECE = 4096  # bytes; what a disk reads at once

Range = tuple[int, int]  # of bytes in a file: where it begins, and where it has ended
Each = Callable[..., Iterable[Any]]  # a function of each of some sequences, in order, as `map`


@dataclass(frozen=True)
class TableFile:
    """A parquet file, wherever it lies.

    Attributes:
        name: with the folder that was given, if it was one; where a row is, is said by it.
        place: where it lies, for people.
        source: what Arrow reads: a path, or a file.
        pieces: the bytes of some ranges, one after the other.
        require_unchanged: raises a StoreError where it is another file by now.
    """

    name: str
    place: str
    source: Any
    pieces: Callable[[Sequence[Range]], Iterable[bytes]]
    require_unchanged: Callable[[], None] = lambda: None


def open_parquet_folder(request: Request) -> TrainingSet:
    """The parquet files of one split in a folder.

    Raises:
        DatasetError: there are none, or none of the split.
    """
    folder, names = request.path, request.listing.parquet
    if not names:
        kinds = f"{IMAGE_KINDS}, .parquet, .tar or .zip"
        raise DatasetError(f"{folder} holds no {kinds} files: check the path")
    warn_of_skipped_folders(request.listing)
    chosen = splits.choose_tables(folder, names, request.split)
    return _open_here(folder, [folder / name for name in chosen], request)


def open_parquet_file(request: Request) -> TrainingSet:
    """One parquet file.

    Raises:
        DatasetError: it is none, or a split is asked for, which it does not have.
    """
    path = request.path
    if not path.is_file():
        raise DatasetError(f"{path} is neither a folder nor a regular file: give one of these")
    splits.choose(path, [path.name], {}, request.split)
    return _open_here(path, [path], request)


def _open_here(path: Path, paths: Sequence[Path], request: Request) -> TrainingSet:
    files = [
        TableFile(
            each.relative_to(path.parent).as_posix(), str(each), each, partial(_pieces_of, each)
        )
        for each in paths
    ]
    opened, folder = [_parquet_file(file) for file in files], path if path.is_dir() else path.parent
    if _names_images(opened[0].schema_arrow, request):
        return from_rows(request, folder, parquet_rows(request, paths))
    return _training_set(str(path), files, opened, folder, request)


def open_tables(files: Sequence[TableFile], request: Request, each: Each) -> TrainingSet:
    """Parquet files that hold their images themselves, wherever they lie.

    Raises:
        DatasetError: one cannot be read, or names its images.
    """
    opened, source = list(each(_parquet_file, files)), str(request.source)
    if _names_images(opened[0].schema_arrow, request):
        raise DatasetError(
            f"{source} names its images, and such a table is read from a disk alone: copy it there"
        )
    return _training_set(source, files, opened, None, request, each)


def _names_images(schema: Any, request: Request) -> bool:
    """Whether images are files that a column of text names."""
    named = [request.image_column] if request.image_column else PATH_COLUMNS
    return not column_of_images(schema, request.image_column) and has_text(schema, named)


def _training_set(
    source: str,
    files: Sequence[TableFile],
    opened: Sequence[Any],
    folder: Path | None,
    request: Request,
    each: Each = map,
) -> TrainingSet:
    schema = opened[0].schema_arrow
    columns = find_columns(source, schema, request.image_column, request.caption_column)
    columns = columns if request.captions else replace(columns, caption=None)
    uris = [
        f"{file.name}#row={row}"
        for file, table in zip(files, opened, strict=True)
        for row in range(table.metadata.num_rows)
    ]

    def contents_of(file: TableFile, table: Any) -> list[str]:
        return _contents(file, table, columns.image, folder)

    def texts_of(table: Any) -> Iterator[Any]:
        return table.iter_batches(1024, columns=columns.texts)

    contents = [*chain.from_iterable(each(contents_of, files, opened))]
    batches = chain.from_iterable(each(texts_of, opened)) if columns.texts else ()
    samples = read_samples(source, columns, uris, batches)
    cells = _Cells(files, opened, columns)
    return make_training_set(
        source, samples, contents, lambda row: to_rgb(stored(cells[row], folder))
    )


def _pieces_of(path: Path, ranges: Iterable[Range]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for start, stop in ranges:
            file.seek(start)
            yield file.read(stop - start)


def _parquet_file(file: TableFile) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file.source, memory_map=True)
    except MemoryError:  # Arrow's is an ArrowException too
        raise
    except (OSError, pa.ArrowException) as error:
        reason = f"{first_line(error)}; give a parquet file or a folder"
        raise DatasetError(f"cannot read {file.place} as parquet: {reason}") from error


class _Cells:
    """The cells of the image column by row; of one row group at a time."""

    def __init__(self, files: Sequence[TableFile], tables: Sequence[Any], columns: Columns) -> None:
        groups = [
            (file, table, group)
            for file, table in zip(files, tables, strict=True)
            for group in range(table.num_row_groups)
        ]
        counts = [table.metadata.row_group(group).num_rows for _, table, group in groups]
        self._starts = [0, *accumulate(counts)]

        @lru_cache(maxsize=1)
        def images(index: int) -> Any:
            file, table, group = groups[index]
            try:
                found = table.read_row_group(group, columns=[columns.image]).column(0)
            except (NotImplementedError, KeyError) as error:  # how Arrow calls some damage
                raise OSError(first_line(error)) from error
            finally:
                file.require_unchanged()  # which would explain the damage
            return found

        self._images = images

    def __getitem__(self, row: int) -> Any:
        index = bisect_right(self._starts, row) - 1
        return self._images(index)[row - self._starts[index]]


# --- what stands for the pictures in a fingerprint ------------------------------------------------


def _contents(file: TableFile, table: Any, image: str, folder: Path | None) -> list[str]:
    """For each row the digest of its row group, with the size of the file that it names, if any.

    Raises:
        DatasetError: there is no such column, or the file cannot be read.
    """
    contents: list[str] = []
    try:
        groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
        chunks = [_chunks(group, image) for group in groups]
        ranges = [[*chain.from_iterable(map(piece_ranges, own))] for own in chunks]
        pieces = iter(file.pieces([*chain.from_iterable(ranges)]))
        for number, (group, own, several) in enumerate(zip(groups, chunks, ranges, strict=True)):
            digest = group_digest(group.num_rows, own, [next(pieces) for _ in several])
            sizes = _named_sizes(table, number, own, folder)
            contents += [digest + size for size in sizes or [""] * group.num_rows]
    except (OSError, LookupError) as error:
        reason = f"{first_line(error)}; write it again"
        raise DatasetError(f"cannot read {file.place}: {reason}") from error
    return contents


def group_digest(rows: int, chunks: Sequence[Any], pieces: Iterable[bytes]) -> str:
    """What stands for the images of one row group: a sha256, in hex, of what is known for little.

    That is, as JSON, the number of rows and, for each column chunk of the image column (see the
    Parquet specification), its path, its sizes as stored and without compression; then three
    pieces of 4 KiB of each chunk as it lies in the file, from its beginning, its middle and its
    end. So images that are added, taken out or stored with another length are seen; an image that
    is replaced by one of the very same length may not be.
    """
    facts = [[c.path_in_schema, c.total_compressed_size, c.total_uncompressed_size] for c in chunks]
    digest = hashlib.sha256(json.dumps([rows, facts]).encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def piece_ranges(chunk: Any) -> list[Range]:
    """Where the pieces of a column chunk lie that its digest is made of."""
    size = chunk.total_compressed_size
    start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
    begins = (0, max(0, size // 2), max(0, size - _PIECE))
    return [(start + at, start + min(at + _PIECE, size)) for at in begins]


def _chunks(group: Any, image: str) -> list[Any]:
    """The column chunks of the image column: one, or those of its bytes and of its path."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    own = [c for c in chunks if f"{c.path_in_schema}.".startswith(f"{image}.")]
    if not own:
        raise LookupError(f"it has no column {image!r}")
    return own


def _named_sizes(table: Any, group: int, chunks: Sequence[Any], folder: Path | None) -> list[str]:
    """For each row the size of the file that it names, where rows have no bytes of their own.

    Where there is no folder, as of a file that is gone: `stored` refuses it when it is wanted.
    """
    image = chunks[0].path_in_schema.rpartition(".")[0]
    by_name = {chunk.path_in_schema: chunk.statistics for chunk in chunks}
    stored_here = by_name.get(f"{image}.bytes")
    if f"{image}.path" not in by_name or (stored_here and stored_here.null_count == 0):
        return []
    cells = table.read_row_group(group, columns=[f"{image}.path"]).column(0).to_pylist()
    paths = [cell and cell["path"] for cell in cells]
    return [f" {file_size(folder / path) if folder else 0}" if path else "" for path in paths]
