"""Archives as a training set: shards of webdataset (tar), and zips of images.

Files whose names differ in the suffix are one sample: `000.jpg`, `000.txt`, `000.json`, `000.cls`.
Its id is `shard/000`, without the shard's suffix. Read are, when an archive is opened, its headers
and what may hold captions, each once; images are read when they are asked for.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from headwater.data.captions import CaptionReader, lines_of
from headwater.data.decode import SUFFIXES, unread_kinds
from headwater.data.folders import splits
from headwater.data.folders.listing import (
    IMAGE_KINDS,
    is_image_name,
    suffix_of,
    warn_of_skipped_folders,
    without_suffix,
)
from headwater.data.folders.members import COMPRESSED, PLAIN, Member, members_of, read_member
from headwater.data.images import to_rgb
from headwater.data.request import Request
from headwater.data.training_set import (
    Sample,
    TrainingSet,
    as_text,
    make_sample,
    make_training_set,
)
from headwater.errors import DatasetError, HeadwaterWarning, first_line

_ARCHIVES = (*PLAIN, *COMPRESSED)
# Suffixes of what may hold captions, in the order in which they are looked for.
_TEXTS = (".txt", ".caption", ".json", ".cls")


_Images = dict[str, Member]  # by stem: the name without its suffix
_Texts = dict[str, dict[str, bytes]]  # contents by stem and suffix


@dataclass
class _Unread:
    """What is not read in archives: files by suffix, and images beside others of their name."""

    kinds: Counter[str] = field(default_factory=Counter)
    images: list[str] = field(default_factory=list)


def is_archive(request: Request) -> bool:
    """Whether it is a tar or a zip."""
    return request.path.name.lower().endswith(_ARCHIVES) and request.path.is_file()


def is_archive_folder(request: Request) -> bool:
    """Whether it is a folder of archives; tables beside them are of the same names, if any.

    (So img2dataset writes them. Others are data themselves.)
    """
    if not request.path.is_dir():
        return False
    archives = {_shard_name(name) for name in _archives_in(request)}
    tables = {name.removesuffix(".parquet") for name in request.listing.parquet}
    return bool(archives) and tables <= archives


def open_archive(request: Request) -> TrainingSet:
    """The images in a tar or a zip.

    Raises:
        DatasetError: it cannot be read, or a split is asked for, which it does not have.
    """
    path = request.path
    splits.choose(path, [path.name], {}, request.split)
    return _open(request, path.parent, [path.name])


def open_archive_folder(request: Request) -> TrainingSet:
    """The images of one split in the archives of a folder.

    Raises:
        DatasetError: one cannot be read, or there are none of the split.
    """
    warn_of_skipped_folders(request.listing)
    names = splits.choose_tables(request.path, _archives_in(request), request.split)
    return _open(request, request.path, names)


def _archives_in(request: Request) -> list[str]:
    return [name for name in request.listing.names if name.lower().endswith(_ARCHIVES)]


def _shard_name(name: str) -> str:
    return without_suffix(name)


# --- samples --------------------------------------------------------------------------------------


def _open(request: Request, folder: Path, names: Sequence[str]) -> TrainingSet:
    source, key = str(request.path), request.caption_column
    root = "" if request.path.is_file() else f"{folder.name}/"
    reader = CaptionReader(source)
    samples: list[Sample] = []
    places: list[tuple[Path, Member]] = []
    unread, labels = _Unread(), 0
    for name in tqdm(names, desc="listing", unit="shard", delay=2):
        archive, at = folder / name, _shard_name(name)
        images, texts = _read_shard(archive, request, unread)
        for stem, member in images.items():
            own = texts.pop(stem, {})
            captions = _captions(archive, stem, own, key, reader)
            labels += request.captions and ".cls" in own
            uri = f"{root}{name}#{member.name}"
            samples.append(make_sample(as_text(f"{at}/{stem}"), captions, uri))
            places.append((archive, member))
        unread.kinds.update(suffix for lost in texts.values() for suffix in lost)
    reader.warn()
    if request.captions and key and not any(sample.caption for sample in samples):
        raise DatasetError(f"{source} has no {key!r}, as a suffix or in a .json: check its name")
    _warn_of_labels(source, samples, labels)
    _warn_of_unread(source, unread)
    sizes = [member.size for _, member in places]
    return make_training_set(source, samples, sizes, lambda row: to_rgb(read_member(*places[row])))


def _read_shard(archive: Path, request: Request, unread: _Unread) -> tuple[_Images, _Texts]:
    """The images of an archive, and what may hold captions, by one pass over its headers."""
    images: _Images = {}
    texts: _Texts = {}
    given = request.image_column and f".{request.image_column}"
    for member in members_of(archive):
        name = member.name.removeprefix("./")
        stem, suffix = without_suffix(name), suffix_of(name)
        if suffix in _TEXTS:
            content = _content(archive, member) if request.captions else b""
            texts.setdefault(stem, {})[suffix] = content
        elif not is_image_name(member.name):
            unread.kinds[suffix] += 1
        elif stem in images or given not in (None, suffix):
            unread.images.append(member.name)
        else:
            images[stem] = member
    # `000.mask.png` beside `000.jpg` belongs to that sample, as webdataset has it
    for stem in [s for s in images if _whole(s) != s and _whole(s) in images]:
        unread.images.append(images.pop(stem).name)
    return images, texts


def _whole(stem: str) -> str:
    """What stands before the first point of a name."""
    folder, slash, name = stem.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _content(archive: Path, member: Member) -> bytes:
    try:
        return read_member(archive, member)
    except OSError as error:
        what = f"cannot read {member.name!r} in {archive} ({first_line(error)})"
        raise DatasetError(f"{what}: write or download it again") from error


def _warn_of_unread(source: str, unread: _Unread) -> None:
    if lost := unread_kinds(unread.kinds):
        _warn(f"{source}: {lost}")
    kinds = [(kind, n) for kind, n in unread.kinds.most_common() if kind not in SUFFIXES]
    if kinds:
        counts = ", ".join(f"{n} {kind or 'without one'}" for kind, n in kinds)
        _warn(
            f"{source}: files in it that are not read are left out, by suffix: {counts}; images "
            f"are {IMAGE_KINDS}, captions are {' '.join(_TEXTS)} with the name of an image; unpack "
            "an archive with metadata files"
        )
    if unread.images:
        _warn(
            f"{source}: {len(unread.images)} image(s) in it are left out, beside another of that "
            f"name or with another suffix, such as {unread.images[0]!r}; --image-column names the "
            "suffix to take"
        )


# --- captions -------------------------------------------------------------------------------------


def _captions(
    archive: Path, stem: str, texts: Mapping[str, bytes], key: str | None, reader: CaptionReader
) -> Sequence[str]:
    """The captions of one sample, from the first of its files that has any.

    Args:
        texts: contents of its files by suffix.
        key: a suffix, or a key of JSON, that captions stand under; None for the usual ones.
    """
    own = f".{key}" in _TEXTS
    for suffix in [f".{key}"] if own else [".json"] if key else _TEXTS:
        where = f"{archive} {stem + suffix!r}"
        text = _decoded(texts.get(suffix, b""), where)
        if not text:
            continue
        if suffix == ".json":
            captions = reader.read_row(_object(text, where), None if own else key, where)
        elif suffix == ".cls":
            captions = [] if text.isdecimal() and not own else [text]
        else:  # one caption in webdataset, a line a caption where a folder was packed
            lines = [text] if archive.suffix.lower() == ".tar" else lines_of(text)
            captions = reader.read(lines, where)
        if captions:
            return captions
    return ()


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{where}: {first_line(error)}; save it as UTF-8 text") from error


def _object(text: str, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise DatasetError(f'{where}: write a JSON object, such as {{"caption": "a cat"}}')
    return values


def _warn_of_labels(source: str, samples: Sequence[Sample], labels: int) -> None:
    if labels and not any(sample.caption for sample in samples):
        _warn(
            f"{source}: it has class labels ({labels} .cls) that are numbers and no captions; "
            "--caption-column cls takes them for captions as they stand"
        )


def _warn(text: str) -> None:
    warnings.warn(text, HeadwaterWarning, stacklevel=4)
