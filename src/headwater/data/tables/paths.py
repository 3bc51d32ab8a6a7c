"""Tables that name image files: CSV, JSON or parquet with a column of paths."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.data.captions import KEYS, CaptionReader
from headwater.data.folders import splits
from headwater.data.folders.listing import file_size
from headwater.data.images import to_rgb
from headwater.data.request import Request
from headwater.data.tables.rows import Row, rows_of
from headwater.data.training_set import TrainingSet, as_text, make_sample, make_training_set
from headwater.errors import DatasetError, HeadwaterWarning

# Usual names of columns of paths, in the order in which they are looked for.
PATH_COLUMNS = (
    "file_name", "image_path", "path", "file_path", "filepath", "filename", "file", "image", "img",
)  # fmt: skip
_TEXT_TABLES = (".csv", ".tsv", ".jsonl", ".json")
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://")


def is_path_table(request: Request) -> bool:
    """Whether it is a CSV or JSON file."""
    return request.path.suffix.lower() in _TEXT_TABLES and request.path.is_file()


def open_path_table(request: Request) -> TrainingSet:
    """The images that a CSV or JSON file names, see `from_rows`.

    Raises:
        DatasetError: the same; a split is asked for, which it does not have.
    """
    splits.choose(request.path, [request.path.name], {}, request.split)
    return from_rows(request, request.path.parent, rows_of(request.path))


def parquet_rows(request: Request, files: Sequence[Path]) -> Iterable[Row]:
    """Rows of parquet files whose images are paths, without columns that are not needed."""
    keys = [request.caption_column] if request.caption_column else KEYS
    wanted = [*([request.image_column] if request.image_column else PATH_COLUMNS), *keys, "id"]
    return (row for file in files for row in rows_of(file, wanted))


def from_rows(request: Request, folder: Path, rows: Iterable[Row]) -> TrainingSet:
    """The images that the rows of a table name, in its order; no image is read.

    Ids are those of the column `id`; without it the paths, below `folder` where they lie there, and
    rows with the same path are one image with the captions of all.

    Args:
        request: what was asked for; its columns are those of the rows.
        folder: what paths are relative to.
        rows: of the table.

    Raises:
        DatasetError: no column of paths, no path or an address in a row, or no file that is named.
    """
    source, column, reader = str(request.path), "", CaptionReader(str(request.path))
    names: dict[str, str] = {}  # by id
    captions: dict[str, tuple[str, ...]] = {}
    has_key, again = request.caption_column is None or not request.captions, 0
    for row in rows:
        column = column or _path_column(source, row.values, request.image_column)
        name = _name_in(row, column, folder)
        id = _id_in(row) if "id" in row.values else name
        if id in names and "id" in row.values:
            raise DatasetError(f"{row.where}: the id {id!r} is another row's: make it unique")
        again += id in names
        names[id] = name
        if request.captions:
            has_key = has_key or request.caption_column in row.values
            texts = reader.read_row(row.values, request.caption_column, row.where)
            captions[id] = (*captions.get(id, ()), *texts)
    if names and not has_key:
        raise DatasetError(f"{source} has no column {request.caption_column!r}: check its name")
    reader.warn()
    if again:
        _warn(f"{source}: {again} row(s) name an image once more; each adds its captions to it")
    sizes = [file_size(os.path.join(folder, name)) for name in names.values()]  # noqa: PTH118
    _require_files(source, folder, names, sizes)
    root = folder.name if request.path.is_dir() else ""
    samples = [
        make_sample(as_text(id), captions.get(id, ()), os.path.join(root, name))  # noqa: PTH118
        for id, name in names.items()
    ]
    files = list(names.values())
    return make_training_set(source, samples, sizes, lambda row: to_rgb(folder / files[row]))


def _path_column(source: str, values: Mapping[str, Any], given: str | None) -> str:
    """The column of paths, by its first row."""
    column = next((n for n in ([given] if given else PATH_COLUMNS) if n in values), None)
    if column is None:
        there = ", ".join(map(str, values))
        lost = f"no column {given!r}" if given else "no column of paths with a usual name"
        raise DatasetError(f"{source} has {lost}; name as --image-column one of {there}")
    return column


def _name_in(row: Row, column: str, folder: Path) -> str:
    """The file that a row names: below the folder with `/`, or else absolute."""
    given = row.values.get(column)
    if not isinstance(given, str) or not given.strip():
        raise DatasetError(f"{row.where}: {column!r} is {given!r:.40}, no path: name an image file")
    if _ADDRESS.match(given):
        raise DatasetError(
            f"{row.where}: {given!r:.80} is on the web: download the images first, for example "
            "with img2dataset, and give what it wrote"
        )
    if "\0" in given:
        raise DatasetError(f"{row.where}: {given!r:.80} is no path: name an image file")
    whole = os.path.normpath(os.path.join(folder, given))  # noqa: PTH118
    below = f"{folder}{os.sep}"
    return whole.removeprefix(below).replace(os.sep, "/") if whole.startswith(below) else whole


def _id_in(row: Row) -> str:
    if row.values["id"] in (None, ""):
        raise DatasetError(f"{row.where}: there is no id: give every row one")
    return str(row.values["id"])


def _require_files(
    source: str, folder: Path, names: Mapping[str, str], sizes: Sequence[int]
) -> None:
    """Say how many files are not there; refuse a table none of whose are."""
    missing = [n for n, size in zip(names.values(), sizes, strict=True) if not size]
    missing = [name for name in missing if not (folder / name).is_file()]
    if names and len(missing) == len(names):
        raise DatasetError(
            f"{source}: none of the {len(names)} files that it names is there, such as "
            f"{missing[0]!r}; paths are relative to {folder}"
        )
    if missing:
        _warn(
            f"{source}: {len(missing)} of {len(names)} files that it names are not there, such as "
            f"{missing[0]!r}"
        )


def _warn(text: str) -> None:
    warnings.warn(text, HeadwaterWarning, stacklevel=3)
