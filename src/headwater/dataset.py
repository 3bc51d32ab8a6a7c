"""Where training sets come from: scenes, image folders, parquet, Hugging Face data sets, memory.

Every source becomes one `TrainingSet`. Pictures are opened when they are asked for; of parquet, one
row group of images is in memory at a time.
"""

from __future__ import annotations

import functools
import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from headwater.errors import DatasetError
from headwater.scenes.data import SPLITS, pictures
from headwater.scenes.draw import SIZE
from headwater.training_set import (
    Sample,
    TrainingSet,
    first_line,
    make_training_set,
    row_ids,
    to_rgb,
)

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_IMAGE_NAMES = ("image", "img", "png", "jpg")
_CAPTION_NAMES = ("caption", "text", "prompt", "description")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(?<!\.parquet)")


def load_dataset(
    source: str | os.PathLike[str],
    *,
    split: str = "train",
    image_column: str | None = None,
    caption_column: str | None = None,
) -> TrainingSet:
    """Open "scenes" (or "scenes:validation"), what is on disk under this path, or a hub name.

    On disk: a folder saved by `datasets`, a folder of images, a folder of parquet files (of these
    `<split>*.parquet`, where there are any), or a parquet file. Columns are found by their usual
    names if they are not given; `caption_column` also names the key in a `metadata.jsonl`.

    Raises:
        DatasetError: there is no such source, split or column, or no image, or no unique ids.
    """
    given = {"split": split, "image_column": image_column, "caption_column": caption_column}
    opened = _open(source, split, (image_column, caption_column))
    changed = {k: v for k, v in given.items() if v is not None and (k, v) != ("split", "train")}
    return replace(opened, options={} if opened.source.startswith("scenes") else changed)


def _open(
    source: str | os.PathLike[str], split: str, columns: tuple[str | None, str | None]
) -> TrainingSet:
    path = Path(source).expanduser()
    if isinstance(source, str) and source.partition(":")[0] == "scenes":
        return _scenes(source.partition(":")[2] or split)
    if path.is_dir():
        return _folder(path.resolve(), split, columns)
    if path.exists():
        _check_split(path, split)
        return _parquet(path.resolve(), [path.resolve()], columns)
    if isinstance(source, str) and _HUB_NAME.fullmatch(source):
        mend = f"there is no such path; for a hub name, check it, split {split!r} and the network"
        loaded = _by_datasets("load_dataset", source, mend, split=split)
        return from_hf_dataset(loaded, source, *columns)
    raise DatasetError(f"there is no file or folder {str(source)!r}: check the path")


def from_images(
    images: Sequence[Image.Image], captions: Sequence[str], ids: Sequence[str] | None = None
) -> TrainingSet:
    """Pictures in memory; without ids they are `row-00000000` and on."""
    ids = row_ids(len(images)) if ids is None else ids
    if not len(images) == len(captions) == len(ids):
        counts = f"{len(images)} images, {len(captions)} captions, {len(ids)} ids"
        raise DatasetError(f"{counts}: give as many of each")
    uris = [f"(in memory)#row={row}" for row in range(len(images))]
    lengths = [image.width * image.height * len(image.getbands()) for image in images]
    samples = list(map(Sample, ids, captions, uris))
    return make_training_set("(in memory)", samples, lengths, lambda row: to_rgb(images[row]))


def from_hf_dataset(
    dataset: Any,
    source: str = "(in memory)",
    image_column: str | None = None,
    caption_column: str | None = None,
) -> TrainingSet:
    """A `datasets.Dataset`; ids from its `id` column, else `row-00000000` and on."""
    if isinstance(dataset, dict) or not hasattr(dataset, "__len__"):
        kind = type(dataset).__name__
        raise DatasetError(f"{source} is a {kind}: give one split of it, not streamed")
    columns = _columns(source, dataset.features.arrow_schema, image_column, caption_column)
    names = [name for name in set(columns) if name]
    rows = dataset.select_columns(names).with_format("arrow")
    name = Path(source).name if Path(source).is_absolute() else source
    uris = [f"{name}#row={row}" for row in range(len(dataset))]

    def cell(row: int) -> Any:
        return rows[row][columns[0]][0]

    return _table(source, columns, uris, Path(), rows.iter(batch_size=64), cell)


def _scenes(split: str) -> TrainingSet:
    if split not in SPLITS:
        raise DatasetError(f"there are no scenes:{split}; the splits are {', '.join(SPLITS)}")
    drawn = pictures(split)
    samples = [Sample(picture.id, picture.caption, f"scenes:{picture.id}") for picture in drawn]
    lengths = [SIZE * SIZE * 3] * len(drawn)
    source = "scenes" if split == "train" else f"scenes:{split}"
    return make_training_set(source, samples, lengths, lambda row: drawn[row].draw())


def _folder(folder: Path, split: str, columns: tuple[str | None, str | None]) -> TrainingSet:
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        saved = _by_datasets("load_from_disk", str(folder), "save it again with save_to_disk")
        splits = saved if isinstance(saved, dict) else {"train": saved}
        _check_split(folder, split, splits)
        return from_hf_dataset(splits[split], str(folder), *columns)
    names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if not f.is_dir())
    names = [name for name in names if not re.search(r"(^|/)\.", name)]  # no hidden files
    if images := [name for name in names if name.lower().endswith(_SUFFIXES)]:
        _check_split(folder, split)
        return _image_folder(folder, images, columns[1])
    files = [folder / name for name in names if name.endswith(".parquet")]
    if not files:
        kinds = " ".join(_SUFFIXES)
        raise DatasetError(f"{folder} holds no {kinds} or .parquet files: check the path")
    chosen = [file for file in files if file.name.startswith(split)]
    if not chosen:
        _check_split(folder, split)
    return _parquet(folder, chosen or files, columns)


def _check_split(path: Path, split: str, splits: Iterable[str] = ("train",)) -> None:
    if split not in splits:
        raise DatasetError(f"{path} has no split {split!r}; it has {', '.join(splits)}")


def _by_datasets(function: str, source: str, mend: str, **options: Any) -> Any:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        what = f"{source!r} is no folder of images or parquet, and to open it as a data set"
        raise DatasetError(f"{what} needs the extra: pip install headwater[datasets]") from error
    try:
        return getattr(datasets, function)(source, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, DatasetsError) as error:
        raise DatasetError(f"cannot load {source!r} ({first_line(error)}): {mend}") from error


# --- folders of images -------------------------------------------------------------------


def _image_folder(folder: Path, names: list[str], key: str | None) -> TrainingSet:
    captions = _metadata(folder, set(names), key)
    for name in names:
        beside = (folder / name).with_suffix(".txt")
        if name not in captions and beside.is_file():
            captions[name] = _text(beside).strip()
    samples = [Sample(name, captions.get(name, ""), f"{folder.name}/{name}") for name in names]
    lengths = [_length(folder / name) for name in names]
    return make_training_set(str(folder), samples, lengths, lambda row: to_rgb(folder / names[row]))


def _metadata(folder: Path, names: set[str], key: str | None) -> dict[str, str]:
    """Captions by file name, from every metadata.jsonl in the folder or below."""
    captions: dict[str, str] = {}
    for file in sorted(folder.rglob("metadata.jsonl")):
        for number, line in enumerate(_text(file).split("\n"), 1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            try:
                row = json.loads(line)
                name = (file.parent / row["file_name"]).relative_to(folder).as_posix()
            except (ValueError, TypeError, KeyError) as error:
                raise DatasetError(f"{where}: write a JSON object with a `file_name`") from error
            if name not in names:
                raise DatasetError(f"{where}: there is no image {name!r}; add it or drop the line")
            keys = [key] if key else ["text", "caption", "prompt"]
            if texts := [row[k] for k in keys if isinstance(row.get(k), str)]:
                captions[name] = texts[0]
    if key and not captions:
        raise DatasetError(f"no metadata.jsonl in {folder} has {key!r}: check caption_column")
    return captions


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {first_line(error)}; save it as UTF-8 text") from error


# --- tables ------------------------------------------------------------------------------


def _parquet(path: Path, files: list[Path], given: tuple[str | None, str | None]) -> TrainingSet:
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
    columns = _columns(str(path), opened[0].schema_arrow, *given)
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
    return _table(str(path), columns, uris, folder, batches, cell)


def _columns(
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
        raise DatasetError(f"{source} has no column {lost!r} of {kind}; name one of these: {there}")
    return image, caption, pick(["id"], lambda kind: is_text(kind) or types.is_integer(kind))


def _marked(schema: Any) -> list[str]:
    """The column that `datasets` has marked as images, if there is exactly one."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        marked = [name for name, kind in features.items() if kind.get("_type") == "Image"]
    except (KeyError, TypeError, ValueError, AttributeError):  # plain parquet has no such mark
        return []
    return marked if len(marked) == 1 else []


def _table(source, columns, uris, folder, batches, cell) -> TrainingSet:
    """An Arrow table: ids, captions and lengths from `batches`, later an image from `cell`."""
    import pyarrow as pa

    image, caption, id = columns
    ids, captions, lengths = [], [], []
    try:
        with tqdm(desc="reading", total=len(uris), unit="row", delay=2) as bar:
            for batch in batches:
                ids += batch.column(id).to_pylist() if id else []
                captions += batch.column(caption).to_pylist() if caption else []
                lengths += [_length(_stored(each, folder)) for each in batch.column(image)]
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


def _length(stored: Any) -> int:
    if isinstance(stored, Path):
        return stored.stat().st_size if stored.is_file() else 0
    return len(stored)
