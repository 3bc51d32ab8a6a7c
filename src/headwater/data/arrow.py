"""Training sets in Arrow tables: which columns hold what, and images opened one at a time."""

from __future__ import annotations

import functools
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

from tqdm import tqdm

from headwater.data.images import to_rgb
from headwater.data.training_set import Sample, TrainingSet, make_training_set, row_ids
from headwater.errors import DatasetError, first_line

_IMAGE_NAMES = ("image", "img", "png", "jpg")
_CAPTION_NAMES = ("caption", "text", "prompt", "description")


def parquet(path: Path, files: list[Path], given: tuple[str | None, str | None]) -> TrainingSet:
    """Parquet files as one training set; `given` names the columns of images and captions.

    Raises:
        DatasetError: a file cannot be read as parquet, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened, uris = [], []
    for file in files:
        try:
            opened.append(pq.ParquetFile(file, memory_map=True))
        except (OSError, pa.ArrowException) as error:
            reason = f"{first_line(error)}; give a parquet file or a folder"
            raise DatasetError(f"cannot read {file} as parquet: {reason}") from error
        name = file.relative_to(path.parent).as_posix()
        uris += [f"{name}#row={row}" for row in range(opened[-1].metadata.num_rows)]
    columns = find_columns(str(path), opened[0].schema_arrow, *given)
    groups = [(file, group) for file in opened for group in range(file.num_row_groups)]
    starts = [0, *accumulate(f.metadata.row_group(group).num_rows for f, group in groups)]

    @functools.lru_cache(maxsize=1)
    def images(index: int) -> Any:
        file, group = groups[index]
        return file.read_row_group(group, columns=[columns[0]]).column(0)

    def cell(row: int) -> Any:
        index = bisect_right(starts, row) - 1
        return images(index)[row - starts[index]]

    names = [name for name in set(columns) if name]
    batches = (batch for file in opened for batch in file.iter_batches(64, columns=names))
    folder = path if path.is_dir() else path.parent
    return from_table(str(path), columns, uris, folder, batches, cell)


def find_columns(
    source: str, schema: Any, image_column: str | None, caption_column: str | None
) -> tuple[str, str | None, str | None]:
    """The columns of images, captions and ids: those given, or those with usual names."""
    from pyarrow import types

    def is_image(kind: Any) -> bool:
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_text(kind: Any) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    def pick(names: Iterable[str], fits: Callable[[Any], bool]) -> str | None:
        there = (name for name in names if name in schema.names)
        return next((name for name in there if fits(schema.field(name).type)), None)

    image = pick([image_column] if image_column else [*_IMAGE_NAMES, *_marked(schema)], is_image)
    caption = pick([caption_column] if caption_column else _CAPTION_NAMES, is_text)
    if image is None or (caption_column and caption is None):
        lost, kind = (
            (image_column or "image", "images") if image is None else (caption_column, "text")
        )
        there = ", ".join(f"{field.name} ({field.type})" for field in schema)
        mend = "it has" if image_column or image else "name as --image-column one of"
        raise DatasetError(f"{source} has no column {lost!r} of {kind}; {mend} {there}")
    return image, caption, pick(["id"], lambda kind: is_text(kind) or types.is_integer(kind))


def _marked(schema: Any) -> list[str]:
    """The column that `datasets` has marked as images, if there is exactly one."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        marked = [name for name, kind in features.items() if kind.get("_type") == "Image"]
    except (KeyError, TypeError, ValueError, AttributeError):  # plain parquet has no such mark
        return []
    return marked if len(marked) == 1 else []


def from_table(
    source: str,
    columns: tuple[str, str | None, str | None],
    uris: list[str],
    folder: Path,
    batches: Iterable[Any],
    cell: Callable[[int], Any],
) -> TrainingSet:
    """An Arrow table: ids, captions and lengths from `batches`, later an image from `cell`.

    Raises:
        DatasetError: it cannot be read, or a row has no id.
    """
    import pyarrow as pa

    image, caption, id = columns
    ids, captions, lengths = [], [], []
    try:
        with tqdm(desc="reading", total=len(uris), unit="row", delay=2) as bar:
            for batch in batches:
                ids += batch.column(id).to_pylist() if id else []
                captions += batch.column(caption).to_pylist() if caption else []
                lengths += [byte_length(_stored(each, folder)) for each in batch.column(image)]
                bar.update(batch.num_rows)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {source}: {first_line(error)}; write it again") from error
    if None in ids:
        raise DatasetError(f"{source} has no id in row {ids.index(None)}: give every row one")
    rows = zip(ids or row_ids(len(uris)), captions or [""] * len(uris), uris, strict=True)
    samples = [Sample(str(id), caption or "", uri) for id, caption, uri in rows]
    return make_training_set(
        source, samples, lengths, lambda row: to_rgb(_stored(cell(row), folder))
    )


def _stored(cell: Any, folder: Path) -> Any:
    """The bytes in a cell, as a buffer that is no copy of them, or the file that it names."""
    if not cell.is_valid:
        return b""
    nested = hasattr(cell, "keys")
    data = cell["bytes"] if nested else cell
    if data.is_valid:
        return data.as_buffer()
    path = cell["path"].as_py() if nested and "path" in cell else None
    return folder / path if path else b""


def byte_length(stored: Any) -> int:
    """How many bytes an image takes as it is stored; 0 where it is missing."""
    if isinstance(stored, Path):
        return stored.stat().st_size if stored.is_file() else 0
    return len(stored)
