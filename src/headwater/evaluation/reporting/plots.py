"""Plots of an evaluation, as PNG. matplotlib is an extra, imported when first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.errors import HeadwaterError
from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.reporting.results import Row
from headwater.storage.files import renamed

# Okabe and Ito's colours, which the colour-blind can tell apart; then other dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
_DASHES = ("-", "--", ":", "-.")
_MARKERS, _GREY_MARKERS = "osD^vPX", "x+12"
_GREY, _RULE = "#555555", "#dddddd"


def require_matplotlib() -> None:
    """Refuse to begin what would end without its plots.

    Raises:
        HeadwaterError: matplotlib is not there.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise HeadwaterError("plots need matplotlib: pip install 'headwater[evaluate]'") from None


def plot_bars(
    path: Path,
    rows: Sequence[Row],
    metric: str,
    *,
    title: str = "",
    label: str = "method",
    group: str | None = None,
) -> None:
    """One bar with its interval for each row that has the metric, the highest first.

    Args:
        label: the column that names a bar.
        group: a column that gives bars their colour; one of at most seven values.

    Raises:
        HeadwaterError: matplotlib is not there.
        StoreError: `path` cannot be written.
    """
    measured = [row for row in rows if isinstance(row.get(metric), Interval)]
    measured.sort(key=lambda row: -row[metric].mean)
    figure, axes = _figure(7.0, 1.1 + 0.24 * len(measured))
    groups = sorted({row[group] for row in measured}) if group else [None]
    for kind, colour in zip(groups, _COLOURS, strict=False):
        own = [i for i, row in enumerate(measured) if group is None or row[group] == kind]
        values = [measured[i][metric] for i in own]
        axes.barh(own, [v.mean for v in values], 0.72, color=colour, alpha=0.75, label=kind)
        axes.errorbar(
            [v.mean for v in values],
            own,
            xerr=[[v.mean - v.low for v in values], [v.high - v.mean for v in values]],
            fmt="none",
            ecolor="#222222",
            elinewidth=1,
            capsize=2,
        )
    axes.set_yticks(range(len(measured)), [str(row[label]) for row in measured])
    axes.set_ylim(len(measured) - 0.4, -0.6)
    axes.axvline(0, color="#222222", linewidth=0.8)
    _dress(axes, "x", title)
    axes.set_xlabel(f"{metric}, 95% intervals")
    if len(groups) > 1:
        place = {"loc": "outside upper right", "ncols": len(groups), "title": group}
        figure.legend(**place, frameon=False, fontsize=8, title_fontsize=8)
    _save(figure, path)


@dataclass(frozen=True)
class Labels:
    """What stands at the axes of a plot, and above it.

    Attributes:
        x: what k is.
        y: what the effect is, with its unit.
    """

    x: str
    y: str
    title: str = ""


def plot_curves(
    path: Path,
    effects: Mapping[str, Mapping[int, Interval]],
    labels: Labels,
    *,
    baselines: Sequence[str] = ("random",),
    ticks: Mapping[int, str] | None = None,
) -> None:
    """A line with its interval as a band for each method: effect against k.

    Args:
        effects: method -> k -> effect.
        baselines: methods drawn in grey.
        ticks: k -> what stands below it, if not k.

    Raises:
        HeadwaterError: matplotlib is not there.
        StoreError: `path` cannot be written.
    """
    figure, axes = _figure(7.0, 4.0)
    methods = [name for name in effects if name not in baselines]
    for name, by_k in effects.items():
        ks = sorted(by_k)
        values = [by_k[k] for k in ks]
        style = _style(methods.index(name)) if name in methods else _grey(baselines.index(name))
        axes.plot(ks, [v.mean for v in values], label=name, **style)
        low, high = [v.low for v in values], [v.high for v in values]
        axes.fill_between(ks, low, high, color=style["color"], alpha=0.13, linewidth=0)
    all_ks = sorted({k for by_k in effects.values() for k in by_k})
    axes.set_xticks(all_ks, None if ticks is None else [ticks[k] for k in all_ks])
    _label(figure, axes, Labels(labels.x, f"{labels.y}, 95% intervals", labels.title))
    _save(figure, path)


def plot_points(
    path: Path,
    places: Mapping[str, Sequence[tuple[float, float]]],
    labels: Labels,
    *,
    baselines: Sequence[str] = ("random",),
) -> None:
    """Points (x, y), each method's with a mark of their own; baselines in grey.

    Raises:
        HeadwaterError: matplotlib is not there.
        StoreError: `path` cannot be written.
    """
    figure, axes = _figure(7.0, 4.0)
    methods = [name for name in places if name not in baselines]
    for name, points in places.items():
        grey = name in baselines
        style = _style(methods.index(name)) if not grey else {"color": _GREY, "markersize": 5}
        mark = _GREY_MARKERS[list(baselines).index(name)] if grey else style["marker"]
        axes.plot(
            *zip(*points, strict=True), label=name, **{**style, "linestyle": "", "marker": mark}
        )
    _label(figure, axes, labels)
    _save(figure, path)


def _style(i: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[i % len(_COLOURS)],
        "linestyle": _DASHES[i // len(_COLOURS) % len(_DASHES)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 4,
    }


def _grey(i: int) -> dict[str, Any]:
    return {"color": _GREY, "linestyle": _DASHES[(i + 1) % len(_DASHES)], "marker": None}


def _figure(width: float, height: float) -> tuple[Any, Any]:
    require_matplotlib()
    from matplotlib.figure import Figure  # not pyplot, which keeps state for the whole process

    figure = Figure((width, height), dpi=150, layout="constrained")
    return figure, figure.subplots()


def _dress(axes: Any, grid: str, title: str) -> None:
    axes.grid(axis=grid, color=_RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, length=2)
    axes.set_title(title, loc="left", fontsize=10)


def _label(figure: Any, axes: Any, labels: Labels) -> None:
    """Dress a plot of effects, y, against x: a line at zero, and a legend beside it."""
    axes.axhline(0, color="#222222", linewidth=0.8)
    _dress(axes, "y", labels.title)
    axes.set_xlabel(labels.x)
    axes.set_ylabel(labels.y)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)


def _save(figure: Any, path: Path) -> None:
    with renamed(path) as part:
        figure.savefig(part, format="png")
