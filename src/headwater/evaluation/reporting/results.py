"""What every evaluation leaves: a folder with `table.md`, `results.json` and plots as PNG.

A row is a mapping from column to text, number, `Interval` or None (nothing to measure).
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeGuard

import torch

from headwater.evaluation.metrics.intervals import Interval
from headwater.runtime.console import printable
from headwater.storage.files import remove_abandoned, write_text

Row = Mapping[str, Any]

_PACKAGES = ("headwater", "torch", "diffusers", "transformers", "numpy")


def circumstances() -> dict[str, Any]:
    """Versions and machine, as every result states them."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
        "machine": ", ".join(_machine()),
    }


def _machine() -> Iterator[str]:
    yield f"{platform.system()} {platform.machine()}"
    yield f"{os.cpu_count()} cores"
    if torch.cuda.is_available():
        yield torch.cuda.get_device_name()


# --- tables ---------------------------------------------------------------------------------------


def cell(value: Any) -> str:
    """A value as it stands in a table: "0.853 [0.819, 0.882]"; "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, Interval):
        bounds = "-" if _is_missing(value.low) else f"{_number(value.low)}, {_number(value.high)}"
        return f"{_number(value.mean)} [{bounds}]"
    return _number(value) if isinstance(value, float) else _text(str(value))


def _text(text: str) -> str:
    """Words of a data set as a cell can hold them, and a terminal can show them."""
    return printable(text).replace("|", r"\|")


def _is_missing(end: float | int | None) -> bool:
    return end is None or math.isnan(end)


def _number(value: float) -> str:
    """Three decimals; never -0.000."""
    return f"{round(value, 3) + 0.0:.3f}"


def columns(rows: Sequence[Row]) -> list[str]:
    """Every column of any row, in the order in which they first come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def markdown(rows: Sequence[Row]) -> str:
    """A table, padded so that it reads well as plain text too; numbers stand to the right.

    A column whose intervals are over fewer values than the most of the table says of how many.
    """
    most = max((v.n or 0 for row in rows for v in row.values() if _is_interval(v)), default=0)
    names = columns(rows)
    lines = [list(map(_text, names)), *([cell(row.get(name)) for name in names] for row in rows)]
    rules = []
    for i, name in enumerate(names):
        values = [row.get(name) for row in rows]
        fewer = sorted({v.n for v in values if _is_interval(v) and v.n} - {most})
        if fewer:
            lines[0][i] += f" (of {' or '.join(map(str, fewer))})"
        text = any(isinstance(value, str) for value in values)
        width = max(3, *(len(line[i]) for line in lines))
        for line in lines:
            line[i] = line[i].ljust(width) if text else line[i].rjust(width)
        rules.append("-" * width if text else "-" * (width - 1) + ":")
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], rules, *lines[1:]))


def _is_interval(value: Any) -> TypeGuard[Interval]:
    return isinstance(value, Interval)


# --- the folder -----------------------------------------------------------------------------------


def to_json(about: Mapping[str, Any], rows: Sequence[Row], **more: Any) -> dict[str, Any]:
    """The result as JSON takes it; intervals become {mean, low, high, n}."""

    def plain(value: Any) -> Any:
        if not isinstance(value, Interval):
            return value
        return {name: None if _is_missing(v) else v for name, v in value._asdict().items()}

    table = [{name: plain(value) for name, value in row.items()} for row in rows]
    return {**about, "rows": table, **more}


def page(title: str, about: Mapping[str, Any], rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The table with what one needs to read it and to make it again."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return "\n".join([
        f"# {title}",
        "",
        markdown(rows),
        *(f"- {note}" for note in notes),
        "",
        f"    {about['command']}",
        "",
        f"{about['date']}; {about['machine']}; {versions}",
        "",
    ])  # fmt: skip


def write_results(
    out: Path,
    title: str,
    about: Mapping[str, Any],
    rows: Sequence[Row],
    notes: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Write `table.md` and `results.json` into the folder `out`; returns what the second holds.

    Args:
        about: `command`, `date` and `settings`, and what `circumstances` gives.
        notes: what a reader of the table must know, a line each.
        more: further entries of `results.json`.

    Raises:
        StoreError: `out` cannot be written.
    """
    written = to_json(about, rows, **more)
    write_text(out / "table.md", page(title, about, rows, notes))
    write_text(out / "results.json", json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    remove_abandoned(out)
    return written
