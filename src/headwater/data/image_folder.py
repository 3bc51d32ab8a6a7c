"""Folders of image files, and where their captions stand."""

from __future__ import annotations

import json
from pathlib import Path

from headwater.data.arrow import byte_length
from headwater.data.images import to_rgb
from headwater.data.training_set import Sample, TrainingSet, make_training_set
from headwater.errors import DatasetError, first_line

# --- folders of images -------------------------------------------------------------------


def image_folder(folder: Path, names: list[str], key: str | None) -> TrainingSet:
    captions = _metadata(folder, set(names), key)
    for name in names:
        beside = (folder / name).with_suffix(".txt")
        if name not in captions and beside.is_file():
            captions[name] = _text(beside).strip()
    samples = [Sample(name, captions.get(name, ""), f"{folder.name}/{name}") for name in names]
    lengths = [byte_length(folder / name) for name in names]
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
        raise DatasetError(f"no metadata.jsonl in {folder} has {key!r}: check --caption-column")
    return captions


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {first_line(error)}; save it as UTF-8 text") from error
