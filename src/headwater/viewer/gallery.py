"""Answers put together as plain pages that need no server, for a project's own site."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from headwater.data.images import read_image
from headwater.errors import QueryError, StoreError
from headwater.report.rendering import render
from headwater.storage.files import changing, distinct_names, remove_abandoned, slug, write_text
from headwater.upkeep.answers import RESULTS, read_result

_REPORT = "report.html"


@dataclass(frozen=True)
class Exhibit:
    """An answer in a gallery.

    Attributes:
        file: its report, in the gallery's folder.
        asked: what was asked for, question by question.
        image: that stands for the question; None where it has none.
    """

    file: str
    asked: Sequence[str]
    method: str
    image: PIL.Image.Image | None


def write_gallery(out: str | Path, answers: Sequence[str | Path], title: str) -> Path:
    """Write `index.html` and a copy of each answer's report; returns the first of them.

    Args:
        answers: folders as `headwater concept` and `image` write them.

    Raises:
        StoreError: one holds no report, or the gallery cannot be written.

    Example:
        write_gallery("public", ["headwater-answers/star"], "Our model")
    """
    out, folders = Path(out), [Path(each) for each in answers]
    for folder in folders:
        if not (folder / _REPORT).is_file():
            raise StoreError(
                f"{folder} holds no {_REPORT}: give a folder of answers, as `headwater concept` "
                "writes it"
            )
    names = distinct_names([slug(folder.resolve().name) for folder in folders])
    exhibits = [_exhibit(*each) for each in zip(folders, names, strict=True)]
    with changing(out):
        out.mkdir(parents=True, exist_ok=True)
        for folder, exhibit in zip(folders, exhibits, strict=True):
            shutil.copyfile(folder / _REPORT, out / exhibit.file)
        write_text(out / "index.html", render("gallery.html", title=title, exhibits=exhibits))
    remove_abandoned(out)
    return out / "index.html"


def _exhibit(folder: Path, name: str) -> Exhibit:
    results = [read_result(file) for end in RESULTS for file in sorted(folder.glob(f"**/{end}"))]
    if not results:
        raise StoreError(f"{folder} holds no {' or '.join(RESULTS)}: ask the question again")
    asked = [_asked(result) for result in results]
    try:
        image = read_image(folder / "query.png")
    except QueryError:
        image = None
    return Exhibit(f"{name}.html", asked, str(results[0].get("method", "")), image)


def _asked(result: Mapping[str, Any]) -> str:
    if "steps" in result:
        return f"each step of making “{result.get('prompt', '')}”"
    words = result.get("plus") or result.get("prompt") or result.get("title", "")
    return f"“{result['concept']}” in “{words}”" if result.get("concept") else str(words)
