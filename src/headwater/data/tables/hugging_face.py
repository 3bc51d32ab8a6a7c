"""Data sets of Hugging Face `datasets`: in memory, saved to disk, or by their name on the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headwater.data.folders.listing import file_size
from headwater.data.images import to_rgb
from headwater.data.request import Request
from headwater.data.tables.arrow import find_columns, read_samples, stored
from headwater.data.training_set import IN_MEMORY, TrainingSet, make_training_set
from headwater.errors import DatasetError, first_line

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# A name that ends so is that of a file, which is not there.
_FILES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".tar", ".tar.gz", ".tgz", ".zip")


def from_hf_dataset(
    dataset: Any,
    source: str = IN_MEMORY,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> TrainingSet:
    """A `datasets.Dataset`; ids from its `id` column, else `row-00000000` and on.

    Names of classes are captions where `caption_column` names a column of `ClassLabel`, or where
    one named `label` is all that there is.

    Raises:
        DatasetError: it is another object, a stream (images are read again to be shown, and by
            other processes, which a stream cannot do), or has no column of images.

    Example:
        data = datasets.load_from_disk("my-data")
        images = from_hf_dataset(data, caption_column="prompt")
    """
    if type(dataset).__name__ == "IterableDataset":
        raise DatasetError(
            f"{source} is a stream, and no image of it can be read again: write it, or its first "
            "N, by `stream.take(N).to_parquet('images.parquet')`, and give load_dataset that file"
        )
    if not all(hasattr(dataset, name) for name in ("features", "select_columns", "__len__")):
        kind = type(dataset).__name__
        raise DatasetError(
            f"{source} is a {kind}: give one split of a `datasets.Dataset`, not streamed"
        )
    columns = find_columns(source, dataset.features.arrow_schema, image_column, caption_column)
    name = Path(source).name if Path(source).is_absolute() else source
    uris = [f"{name}#row={row}" for row in range(len(dataset))]
    texts = dataset.select_columns(columns.texts).with_format("arrow").iter(batch_size=1024)
    samples = read_samples(source, columns, uris, texts)
    images = dataset.select_columns([columns.image]).with_format("arrow")

    def picture_at(row: int) -> Any:
        return to_rgb(stored(images[row].column(columns.image)[0], Path()))

    return make_training_set(source, samples, _contents(source, dataset, images), picture_at)


def _contents(source: str, dataset: Any, images: Any) -> list[int | str]:
    """What stands for each picture in the fingerprint.

    Its length in bytes, which the table tells without reading any of them; or, where rows are in
    memory, the sha256 of its bytes.
    """
    import pyarrow as pa

    content: Callable[[Any], int | str] = _length if _is_on_disk(dataset.data) else _digest
    try:
        batches = images.iter(batch_size=64)
        return [content(stored(cell, Path())) for batch in batches for cell in batch.column(0)]
    except MemoryError:  # Arrow's is an ArrowException too
        raise
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {source}: {first_line(error)}; write it again") from error


def _length(image: Any) -> int:
    return file_size(image) if isinstance(image, Path) else len(image)


def _digest(image: Any) -> int | str:
    if isinstance(image, Path):
        return file_size(image)
    return hashlib.sha256(image).hexdigest()


def _is_on_disk(table: Any) -> bool:
    """Whether all of a table of `datasets` is mapped from files."""
    blocks = [block for row in getattr(table, "blocks", [[table]]) for block in row]
    return all(hasattr(block, "path") for block in blocks)


# --- on disk and on the hub -----------------------------------------------------------------------


def is_saved(request: Request) -> bool:
    """Whether it is a folder that `save_to_disk` wrote."""
    return any((request.path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def open_saved(request: Request) -> TrainingSet:
    """One split of a data set that was saved to disk."""
    saved = _by_datasets("load_from_disk", str(request.path), "save it again with save_to_disk")
    splits = saved if isinstance(saved, dict) else {"train": saved}
    if request.split not in splits:
        there = ", ".join(splits)
        raise DatasetError(f"{request.path} has no split {request.split!r}; it has {there}")
    columns = request.image_column, request.caption_column
    return from_hf_dataset(splits[request.split], str(request.path), *columns)


def is_hub_name(request: Request) -> bool:
    """Whether it may be the name of a data set on the hub."""
    name = request.source
    return isinstance(name, str) and bool(_HUB_NAME.fullmatch(name)) and not name.endswith(_FILES)


def open_hub_name(request: Request) -> TrainingSet:
    """One split of a data set of the hub."""
    name = str(request.source)
    mend = (
        f"there is no such path; for a hub name, check it, split {request.split!r} and the network"
    )
    loaded = _by_datasets("load_dataset", name, mend, split=request.split)
    return from_hf_dataset(loaded, name, request.image_column, request.caption_column)


def _by_datasets(function: str, source: str, mend: str, **options: Any) -> Any:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        what = f"{source!r} is no folder of images or parquet, and to open it as a data set"
        raise DatasetError(f"{what} needs the extra: pip install 'headwater[datasets]'") from error
    try:
        return getattr(datasets, function)(source, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, DatasetsError) as error:
        raise DatasetError(f"cannot load {source!r} ({first_line(error)}): {mend}") from error
