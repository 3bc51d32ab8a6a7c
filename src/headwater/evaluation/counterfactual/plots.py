"""The plots of a counterfactual: each effect against what was taken out, or window by window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.evaluation.counterfactual.effects import AGAIN, display_name, drops_by_share
from headwater.evaluation.counterfactual.regenerate import Window
from headwater.evaluation.counterfactual.study import Outcome
from headwater.evaluation.ground_truth.oracles import ORACLES
from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.reporting.plots import Labels, plot_bars, plot_curves, plot_points

# Plots tell four greys apart.
_GREY = (AGAIN, "random", *(oracle.name for oracle in ORACLES.values()))

# File -> (column of the table, what it says).
PLOTS = {
    "drop": ("drop", "drop of the concept's rate"),
    "others": ("others' drop", "drop of the other concepts' rate"),
    "l2": ("l2", "l2 to the full model's pictures"),
    "frechet": ("Frechet", "Frechet distance"),
}


def plot_removals(
    out: Path, table: Sequence[Mapping[str, Any]], remove: Sequence[int], what: str
) -> None:
    """Each effect against how many images were taken out; bars, where that is one number."""
    for name, (column, y) in PLOTS.items():
        path, lines = out / f"{name}.png", _lines(table, column, remove)
        if len(remove) == 1:  # a curve of one point shows nothing
            title = f"{what}, {remove[0]} images taken out"
            plot_bars(path, [{**row, y: row.get(column)} for row in table], y, title=title)
        elif lines:
            labels = Labels("images taken out", y, what)
            plot_curves(path, lines, labels, baselines=_greys_in(lines))


def plot_gone(path: Path, outcomes: Sequence[Outcome], what: str) -> None:
    """Each retrained model: how much of what taught the concept was gone, and what that did."""
    places: dict[str, list[tuple[float, float]]] = {}
    for method, gone, drop in drops_by_share(outcomes):
        places.setdefault(display_name(method), []).append((gone, drop))
    x, y = "gone, of the images that show and name the concept", PLOTS["drop"][1]
    plot_points(path, places, Labels(x, y, what), baselines=_greys_in(places))


def plot_windows(
    out: Path,
    table: Sequence[Mapping[str, Any]],
    windows: Sequence[Window],
    k: int,
    what: str,
) -> None:
    """Effects window by window, for the most images taken out."""
    places = {str(window): place for place, window in enumerate(windows)}
    ticks = {place: window for window, place in places.items()}
    x = f"timesteps of the other model's turn; images taken out: {k}"
    for name, (column, y) in PLOTS.items():
        lines: dict[str, dict[int, Interval]] = {}
        for row in table:
            if row["removed"] in (0, k) and isinstance(row.get(column), Interval):
                lines.setdefault(row["method"], {})[places[row["window"]]] = row[column]
        if lines:
            labels, baselines = Labels(x, y, what), _greys_in(lines)
            plot_curves(out / f"{name}.png", lines, labels, baselines=baselines, ticks=ticks)


def _greys_in(methods: Iterable[str]) -> list[str]:
    return [name for name in _GREY if name in methods]


def _lines(
    table: Iterable[Mapping[str, Any]], column: str, remove: Sequence[int]
) -> dict[str, dict[int, Interval]]:
    """Method -> k -> effect; what nothing was taken out for is the same at every k."""
    lines: dict[str, dict[int, Interval]] = {}
    for row in table:
        effect = row.get(column)
        if isinstance(effect, Interval):
            for k in remove if row["removed"] == 0 else [row["removed"]]:
                lines.setdefault(row["method"], {})[k] = effect
    return lines
