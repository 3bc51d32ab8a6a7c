"""Arrow tables as training sets: which columns hold what, texts of rows, pictures in cells."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from headwater.data.captions import COLUMNS, CaptionReader
from headwater.data.training_set import Sample, make_sample, row_ids
from headwater.errors import DatasetError, HeadwaterWarning, first_line

# Of columns of `datasets.ClassLabel`, whose names stand in for captions.
LABELS = ("label", "labels")
_IMAGE_NAMES = ("image", "img", "png", "jpg")


@dataclass(frozen=True)
class Columns:
    """The names of the columns of images, captions and ids.

    Attributes:
        classes: names of the numbers in the column of captions, where it is a `ClassLabel`.
    """

    image: str
    caption: str | None = None
    id: str | None = None
    classes: Sequence[str] = ()

    @property
    def texts(self) -> list[str]:
        """Those whose values are read when the table is opened."""
        return [name for name in (self.id, self.caption) if name]


# --- columns --------------------------------------------------------------------------------------


def find_columns(
    source: str, schema: Any, image_column: str | None, caption_column: str | None
) -> Columns:
    """The columns of images, captions and ids: those given, or those with usual names.

    Raises:
        DatasetError: there is no such column, or it holds something else.
    """
    image = column_of_images(schema, image_column)
    caption = _first(schema, [caption_column] if caption_column else COLUMNS, _is_caption)
    classes = _classes(schema)
    if caption is None:
        caption = caption_column if caption_column in classes else None
        caption = caption or _only_label(source, classes, caption_column)
    if image is None or (caption_column and caption is None):
        lost, kind = (
            (image_column or "image", "images") if image is None else (caption_column, "text")
        )
        there = ", ".join(f"{field.name} ({field.type})" for field in schema)
        mend = "it has" if image_column or image else "name as --image-column one of"
        raise DatasetError(f"{source} has no column {lost!r} of {kind}; {mend} {there}")
    named_so = [name for name in COLUMNS if name in schema.names and name != image]
    if caption is None and named_so:
        text = (
            f"{source}: the column {named_so[0]!r} is {schema.field(named_so[0]).type}, which is "
            "no text, and no captions are read; write text, or name another as --caption-column"
        )
        warnings.warn(text, HeadwaterWarning, stacklevel=2)
    return Columns(image, caption, _first(schema, ["id"], _is_id), classes.get(caption or "", ()))


def _only_label(source: str, classes: Mapping[str, Sequence[str]], given: str | None) -> str | None:
    """The column of class labels to take captions from, if there is one and no other is given."""
    labels = [name for name in LABELS if name in classes]
    if given or len(labels) != 1:
        return None
    text = (
        f"{source}: it has no captions; the names of the classes in {labels[0]!r} are taken for "
        f"them, such as {classes[labels[0]][0]!r}; --caption-column names another column"
    )
    warnings.warn(text, HeadwaterWarning, stacklevel=4)
    return labels[0]


def column_of_images(schema: Any, given: str | None) -> str | None:
    """The column that holds images themselves: the one given, or one with a usual name."""
    return _first(schema, [given] if given else [*_IMAGE_NAMES, *_marked(schema)], _is_image)


def has_text(schema: Any, names: Iterable[str]) -> bool:
    """Whether a column of one of these names holds text."""
    return _first(schema, names, _is_text) is not None


def _first(schema: Any, names: Iterable[str], fits: Callable[[Any], bool]) -> str | None:
    """The first of the names that is a column's whose type fits."""
    there = (name for name in names if name in schema.names)
    return next((name for name in there if fits(schema.field(name).type)), None)


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return types.is_binary(kind) or types.is_large_binary(kind) or str(kind) == "binary_view"


def _is_caption(kind: Any) -> bool:
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return _is_text(kind.value_type if any(is_list(kind) for is_list in lists) else kind)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):  # a category of pandas
        kind = kind.value_type
    # by name, for pyarrow had no string_view in its first versions
    return types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view"


def _is_id(kind: Any) -> bool:
    from pyarrow import types

    return _is_text(kind) or types.is_integer(kind)


def _marked(schema: Any) -> list[str]:
    """The column that `datasets` has marked as images, if there is exactly one."""
    marked = [name for name, kind in _features(schema).items() if kind.get("_type") == "Image"]
    return marked if len(marked) == 1 else []


def _classes(schema: Any) -> dict[str, list[str]]:
    """The names of classes by column, of those that `datasets` has marked as labels."""
    features = _features(schema).items()
    named = {column: kind["names"] for column, kind in features if kind.get("names")}
    return {column: [str(name) for name in names] for column, names in named.items()}


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What `datasets` has written of columns; of plain parquet nothing."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


# --- rows -----------------------------------------------------------------------------------------


def read_samples(
    source: str, columns: Columns, uris: Sequence[str], batches: Iterable[Any]
) -> list[Sample]:
    """Ids and captions of all rows, from batches of `columns.texts`; no image is read.

    Raises:
        DatasetError: it cannot be read, or a row has no id.
    """
    import pyarrow as pa

    ids: list[Any] = []
    captions: list[tuple[str, ...]] = []
    reader = CaptionReader(source)
    try:
        with tqdm(desc="reading", total=len(uris), unit="row", delay=2) as bar:
            for batch in batches if columns.texts else ():
                ids += batch.column(columns.id).to_pylist() if columns.id else []
                values = batch.column(columns.caption).to_pylist() if columns.caption else []
                if columns.classes:
                    values = [_class_name(value, columns.classes) for value in values]
                rows = enumerate(values, len(captions))
                captions += [reader.read(value, f"row {row}") for row, value in rows]
                bar.update(batch.num_rows)
    except MemoryError:  # Arrow's is an ArrowException too
        raise
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {source}: {first_line(error)}; write it again") from error
    if None in ids:
        raise DatasetError(f"{source} has no id in row {ids.index(None)}: give every row one")
    reader.warn()
    ids, captions = ids or row_ids(len(uris)), captions or [()] * len(uris)
    rows = zip(ids, captions, uris, strict=True)
    return [make_sample(str(id), texts, uri) for id, texts, uri in rows]


def _class_name(value: Any, classes: Sequence[str]) -> Any:
    """The name of a class; a number that is none is left as it is, to be counted as no text."""
    known = isinstance(value, int) and 0 <= value < len(classes)
    return classes[value] if known else value


def stored(cell: Any, folder: Path | None) -> Any:
    """The bytes in a cell, as a buffer that is no copy of them, or the file that it names.

    Raises:
        DatasetError: it names a file, and there is no folder that this could lie in.
    """
    if not cell.is_valid:
        return b""
    nested = hasattr(cell, "keys")
    data = cell["bytes"] if nested else cell
    if data.is_valid:
        return data.as_buffer()
    path = cell["path"].as_py() if nested and "path" in cell else None
    if path and folder is None:
        raise DatasetError(
            f"an image is named, {path!r}, and not in the table, which is read where it lies: copy "
            "both to a disk"
        )
    return folder / path if path and folder else b""
