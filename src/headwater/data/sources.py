"""Where training sets come from: scenes, image folders, parquet, Hugging Face data sets, memory.

Every source becomes one `TrainingSet`. Pictures are opened when they are asked for; of parquet, one
row group of images is in memory at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from headwater.data.arrow import find_columns, from_table, parquet
from headwater.data.image_folder import image_folder
from headwater.data.images import to_rgb
from headwater.data.training_set import Sample, TrainingSet, make_training_set, row_ids
from headwater.errors import DatasetError, first_line
from headwater.scenes.dataset import SPLITS, pictures
from headwater.scenes.render import SIZE

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Where pictures are that were given as they are: no later process finds them there.
IN_MEMORY = "(in memory)"
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
        if any(columns):
            raise DatasetError("scenes have no columns: leave --image-column, --caption-column out")
        return _scenes(source.partition(":")[2] or split)
    if path.is_dir():
        return _folder(path.resolve(), split, columns)
    if path.exists():
        _check_split(path, split)
        return parquet(path.resolve(), [path.resolve()], columns)
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
    return make_training_set(IN_MEMORY, samples, lengths, lambda row: to_rgb(images[row]))


def from_hf_dataset(
    dataset: Any,
    source: str = IN_MEMORY,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> TrainingSet:
    """A `datasets.Dataset`; ids from its `id` column, else `row-00000000` and on."""
    if isinstance(dataset, dict) or not hasattr(dataset, "__len__"):
        kind = type(dataset).__name__
        raise DatasetError(f"{source} is a {kind}: give one split of it, not streamed")
    columns = find_columns(source, dataset.features.arrow_schema, image_column, caption_column)
    names = [name for name in set(columns) if name]
    rows = dataset.select_columns(names).with_format("arrow")
    name = Path(source).name if Path(source).is_absolute() else source
    uris = [f"{name}#row={row}" for row in range(len(dataset))]

    def cell(row: int) -> Any:
        return rows[row][columns[0]][0]

    return from_table(source, columns, uris, Path(), rows.iter(batch_size=64), cell)


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
        if columns[0]:
            raise DatasetError(f"{folder} holds image files, not columns: leave --image-column out")
        return image_folder(folder, images, columns[1])
    files = [folder / name for name in names if name.endswith(".parquet")]
    if not files:
        kinds = " ".join(_SUFFIXES)
        raise DatasetError(f"{folder} holds no {kinds} or .parquet files: check the path")
    chosen = [file for file in files if file.name.startswith(split)]
    if not chosen:
        _check_split(folder, split)
    return parquet(folder, chosen or files, columns)


def _check_split(path: Path, split: str, splits: Iterable[str] = ("train",)) -> None:
    if split not in splits:
        raise DatasetError(f"{path} has no split {split!r}; it has {', '.join(splits)}")


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
