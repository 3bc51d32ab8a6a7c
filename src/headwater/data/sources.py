"""Where training sets come from: scenes, image folders, tables, Hugging Face data sets.

Every source becomes one `TrainingSet`. Pictures are opened when they are asked for; of parquet, one
row group of images is in memory at a time. A kind of source is one row of `SOURCES`: the first that
fits what was asked for opens it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from headwater.data.captions import with_trigger
from headwater.data.folders.archives import (
    is_archive,
    is_archive_folder,
    open_archive,
    open_archive_folder,
)
from headwater.data.folders.image_folder import is_image_folder, open_image_folder
from headwater.data.request import Request
from headwater.data.tables.at_url import open_large_tables
from headwater.data.tables.hugging_face import is_hub_name, is_saved, open_hub_name, open_saved
from headwater.data.tables.parquet import open_parquet_file, open_parquet_folder
from headwater.data.tables.paths import is_path_table, open_path_table
from headwater.data.training_set import Sample, TrainingSet, make_training_set
from headwater.errors import DatasetError
from headwater.scenes.dataset import SPLITS, pictures
from headwater.scenes.render import SIZE
from headwater.storage.remote import DATASETS, here, hub_place, is_remote


@dataclass(frozen=True)
class Source:
    """A kind of source: whether a request is for one, and how it is opened."""

    name: str
    fits: Callable[[Request], bool]
    open: Callable[[Request], TrainingSet]


def load_dataset(
    source: str | os.PathLike[str],
    *,
    split: str = "train",
    image_column: str | None = None,
    caption_column: str | None = None,
    trigger: str | None = None,
) -> TrainingSet:
    """Open "scenes" (or "scenes:validation"), what is on disk under this path, or a hub name.

    On disk: a folder saved by `datasets`, a folder of images, a parquet file or a folder of them, a
    tar or a zip or a folder of them, or a CSV or JSON file that names image files, as parquet may
    too. The split of a folder is told by names of folders and files, see `splits`; "all" takes
    every split. Columns are found by their
    usual names if they are not given; `caption_column` also names the key in metadata files of
    image folders, see `metadata`; `trigger` is what the trainer put before each caption, see
    `captions.with_trigger`. What lies there and is not taken is said in a `HeadwaterWarning`.

    Raises:
        DatasetError: there is no such source, split or column, or no image, or no unique ids.

    >>> images = load_dataset("scenes:validation")
    >>> len(images), images.samples[0].caption, images.image(0).size
    (500, 'a moon in outlined style on a wavy background', (64, 64))
    """
    _require_name(source)
    return _open(Request(source, split, image_column, caption_column, trigger=trigger))


def load_pictures(source: str, **options: Any) -> TrainingSet:
    """The same, to find pictures by their ids: captions may be left unread.

    A folder may hold a metadata file that names images which are gone.
    """
    return _open(Request(source, **options, captions=False))


def _open(request: Request) -> TrainingSet:
    url = str(request.source)
    if not is_remote(url):
        return _with_options(request, _open_here(request))
    if opened := open_large_tables(request):
        return _with_options(request, opened)
    return replace(_open(replace(request, source=_copy_of(url))), source=url)


def _open_here(request: Request) -> TrainingSet:
    try:
        return next(kind for kind in SOURCES if kind.fits(request)).open(request)
    except PermissionError as error:
        raise DatasetError(f"cannot read {error.filename}: make it readable") from error


def _with_options(request: Request, opened: TrainingSet) -> TrainingSet:
    if not opened.source.startswith("scenes"):  # which names its split itself
        opened = replace(opened, options=request.options)
    return with_trigger(opened, request.trigger) if request.trigger else opened


def _copy_of(url: str) -> str:
    """What lies at a URL, on this machine; of a whole data set of the hub its name."""
    if not url.startswith(DATASETS):
        return here(url)
    name, below, revision = hub_place(url)
    return here(url) if below or revision else name


def _require_name(source: object) -> None:
    if isinstance(source, (str, os.PathLike)) and str(source).strip():
        return
    given = repr(source) if isinstance(source, str) else f"a {type(source).__name__}"
    raise DatasetError(
        f"load_dataset takes a path or a name, not {given}; for a `datasets.Dataset` use "
        "from_hf_dataset, for pictures in memory from_images"
    )


# --- the bundled scenes ---------------------------------------------------------------------------


def _is_scenes(request: Request) -> bool:
    return isinstance(request.source, str) and request.source.partition(":")[0] == "scenes"


def _open_scenes(request: Request) -> TrainingSet:
    if request.image_column or request.caption_column:
        raise DatasetError("scenes have no columns: leave --image-column, --caption-column out")
    split = str(request.source).partition(":")[2] or request.split
    if split not in SPLITS:
        raise DatasetError(f"there are no scenes:{split}; the splits are {', '.join(SPLITS)}")
    drawn = pictures(split)
    samples = [Sample(picture.id, picture.caption, f"scenes:{picture.id}") for picture in drawn]
    contents = [SIZE * SIZE * 3] * len(drawn)
    source = "scenes" if split == "train" else f"scenes:{split}"
    return make_training_set(source, samples, contents, lambda row: drawn[row].draw())


def _refuse(request: Request) -> TrainingSet:
    raise DatasetError(
        f"there is no file or folder {str(request.source)!r}: check the path; where images have "
        "moved since they were indexed, run the same `headwater index` command with their new path"
    )


SOURCES = (
    Source("scenes", _is_scenes, _open_scenes),
    Source("saved by datasets", is_saved, open_saved),
    Source("image folder", is_image_folder, open_image_folder),
    Source("archive folder", is_archive_folder, open_archive_folder),
    Source("parquet folder", lambda request: request.path.is_dir(), open_parquet_folder),
    Source("archive", is_archive, open_archive),
    Source("table of paths", is_path_table, open_path_table),
    Source("parquet file", lambda request: request.path.exists(), open_parquet_file),
    Source("hub name", is_hub_name, open_hub_name),
    Source("nothing", lambda request: True, _refuse),
)
