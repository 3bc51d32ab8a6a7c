"""Which files of a folder are of which split, by the names that `datasets` goes by.

A split is told by a keyword in the name of a folder (`train/`, `val-2017/`) or else of a file
(`train-0001.parquet`), set off by one of `-._ 0-9`; `data/NAME-00000-of-00001.*` names any split.
These are the patterns of `datasets.data_files`. Without any, all files are of the split train.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headwater.errors import DatasetError, HeadwaterWarning

TRAIN, ALL = "train", "all"
_KEYWORDS = {
    TRAIN: "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
_FOLDERS = {
    split: re.compile(rf"(.*[-._ 0-9])?({words})([-._ 0-9].*)?", re.DOTALL)
    for split, words in _KEYWORDS.items()
}
_FILES = {
    split: re.compile(rf"(.*[-._ 0-9])?({words})[-._ 0-9].*", re.DOTALL)
    for split, words in _KEYWORDS.items()
}
_SHARDED = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*")

# Names by split; empty where no name tells one.
Splits = Mapping[str, Sequence[str]]


def by_folder(names: Sequence[str]) -> Splits:
    """Splits that names of folders tell."""
    return _matching(
        names, lambda split, name: any(map(_FOLDERS[split].fullmatch, name.split("/")[:-1]))
    )


def by_file(names: Sequence[str]) -> Splits:
    """Splits that names of files tell."""
    return _matching(
        names, lambda split, name: bool(_FILES[split].fullmatch(name.rpartition("/")[2]))
    )


def of_images(names: Sequence[str]) -> Splits:
    """Splits of an image folder: by folders, or by files where every file name tells one.

    `datasets` goes by file names as soon as one does, and would leave all but
    `train-station.jpg` of a folder of photographs out; that is not taken for a split here.
    """
    files = by_file(names)
    every = len(files) > 1 and len({n for split in files.values() for n in split}) == len(names)
    return by_folder(names) or (files if every else {})


def of_tables(names: Sequence[str]) -> Splits:
    """Splits of a folder of tables: by shards of `data/`, else by folders, else by files."""
    sharded: dict[str, list[str]] = {}
    for name in names:
        if match := _SHARDED.fullmatch(name):
            sharded.setdefault(match[1], []).append(name)
    return sharded or by_folder(names) or by_file(names)


def choose_tables(folder: Path | str, names: Sequence[str], split: str) -> Sequence[str]:
    """The tables or archives of one split, which any name may begin with.

    Raises:
        DatasetError: the folder has no such split.
    """
    by_name = of_tables(names)
    own = [name for name in names if name.rpartition("/")[2].startswith(split)]
    if split not in by_name and own:
        by_name = {**by_name, split: own}
    return choose(folder, names, by_name, split)


def choose(folder: Path | str, names: Sequence[str], splits: Splits, split: str) -> Sequence[str]:
    """The names of one split, with a line on what is left out.

    Raises:
        DatasetError: the folder has no such split.
    """
    if split == ALL or (not splits and split == TRAIN):
        return names
    if split not in splits:
        there = f"{', '.join(splits or [TRAIN])}; --split all takes all of them"
        raise DatasetError(f"{folder} has no split {split!r}; it has {there}")
    chosen = splits[split]
    others = {name: len(files) for name, files in splits.items() if name != split}
    unnamed = len(set(names).difference(*splits.values()))
    others |= {"no split": unnamed} if unnamed else {}
    if len(chosen) < len(names):
        counts = ", ".join(f"{name} {count}" for name, count in others.items())
        text = (
            f"{folder}: {len(names) - len(chosen)} of {len(names)} files are not of the split "
            f"{split!r} and are left out ({counts}); --split all takes all of them"
        )
        warnings.warn(text, HeadwaterWarning, stacklevel=2)
    return chosen


def _matching(names: Sequence[str], belongs: Callable[[str, str], bool]) -> Splits:
    splits = {s: [name for name in names if belongs(s, name)] for s in _KEYWORDS}
    return {split: files for split, files in splits.items() if files}
