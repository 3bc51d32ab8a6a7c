"""Curves over the steps of a picture's making, as an inline SVG with a legend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from headwater.report.page import score, text

LEFT, RIGHT, CEILING, FLOOR = 44.0, 620.0, 14.0, 214.0  # the frame in the drawing
# How many colours `report.html.in` has, and dashes, through which a line that is covered shows.
COLOURS, DASHES = 6, ("", "9 7", "3 5", "12 4 3 4")


def curves(steps: Sequence[int], lines: Mapping[str, Sequence[float]], meaning: str) -> str:
    """One line for each name, from the first step, at the left, to the last.

    Args:
        steps: timesteps, noisiest first; a step's place across is its time.
        lines: for each name a value at each step. The axis goes from 0 to 1, and further where a
            value does.
        meaning: of the values, for those who do not see the drawing.
    """
    every = [value for values in lines.values() for value in values]
    low, high = min(0.0, *every), max(1.0, *every)
    span = (steps[0] - steps[-1]) or 1

    def place(step: int, value: float) -> str:
        x = LEFT + (RIGHT - LEFT) * (steps[0] - step) / span
        return f"{x:.2f} {FLOOR - (FLOOR - CEILING) * (value - low) / (high - low):.2f}"

    marks = []
    for value in (low, (low + high) / 2, high):
        y = float(place(steps[0], value).split()[1])
        marks.append(f'<path class="grid" d="M{LEFT} {y:.2f}H{RIGHT}"/>')
        marks.append(_label(LEFT - 10, y + 5, "end", f"{value:.2g}"))
    for step in _spread(steps):
        x = float(place(step, low).split()[0])
        marks.append(f'<path class="axis" d="M{x:.2f} {FLOOR}v6"/>')
        marks.append(_label(x, FLOOR + 24, "middle", str(step)))
    marks.append(_label((LEFT + RIGHT) / 2, FLOOR + 50, "middle", "Step"))
    for i, values in enumerate(lines.values()):
        at = [place(*point) for point in zip(steps, values, strict=True)]
        marks.append(f'<path {_style(i)} d="M{"L".join(at)}"/>')
    opening = f'<svg viewBox="0 0 640 270" role="img" aria-label="{text(meaning)}">'
    return f"""<div class="curves">
{opening}
{chr(10).join(marks)}
</svg>
<ul class="legend">
{chr(10).join(_named(i, name) for i, name in enumerate(lines))}
</ul>
</div>"""


def _named(i: int, name: str) -> str:
    line = f'<path {_style(i)} d="M0 5H28"/>'
    return f'<li><svg viewBox="0 0 28 10" aria-hidden="true">{line}</svg>{text(name)}</li>'


def _style(i: int) -> str:
    dash = DASHES[(i + i // COLOURS) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'class="curve c{i % COLOURS}"{dashed}'


def _spread(steps: Sequence[int], most: int = 10) -> Sequence[int]:
    """Steps to be labelled: all, or every so many where they would not fit."""
    return steps[:: -(-len(steps) // most)]


def _label(x: float, y: float, anchor: str, said: str) -> str:
    said = said.replace("-", "\N{MINUS SIGN}")
    return f'<text class="tick" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{said}</text>'


# How many bars, how many images count as the top, and the frame in the drawing.
BINS, TOP = 40, 10
LEFT, RIGHT, CEILING, FLOOR = 64.0, 600.0, 40.0, 210.0


def distribution(scores: Sequence[float], counted: str = "training images") -> str:
    """The scores of what is counted as a section of a page, or nothing of none."""
    if not scores:
        return ""
    values = np.sort(np.asarray(scores, dtype=float))
    threshold = float(values[-TOP]) if len(values) > TOP else None
    tinted = f" The tinted part holds the {TOP} highest of {len(values):,}."
    return f"""<h3>Scores of all {counted}</h3>
<div class="histogram">
{_histogram(values, threshold, counted)}
<p class="muted">Each bar counts the {counted} with a score in its range, on a logarithmic
scale, so that one image stays visible beside hundreds.{"" if threshold is None else tinted}</p>
</div>"""


def _histogram(values: np.ndarray, threshold: float | None, counted: str) -> str:
    """Sorted scores as an inline SVG: one bar per bin that is not empty, the top tinted."""
    low, high = _span(values[0], values[-1])
    counts = np.histogram(values, BINS, range=(low, high))[0].tolist()

    def across(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    # The axis starts at half an image, for a bar of one image to have a height.
    def height(count: int) -> float:
        return (FLOOR - CEILING) * math.log(2 * count) / math.log(2.5 * max(counts))

    marks, pitch = [], (RIGHT - LEFT) / BINS
    if threshold is not None:
        at = across(threshold)
        marks.append(f'<path class="band" d="M{at:.2f} {FLOOR}V{CEILING}H{RIGHT}V{FLOOR}z"/>')
        marks.append(f'<path class="threshold" d="M{at:.2f} {FLOOR}V{CEILING}"/>')
        marks.append(_label(RIGHT, 16.0, "end", f"Top {TOP}: from {score(threshold)}", "top"))
    for count in _count_ticks(max(counts)):
        marks.append(f'<path class="grid" d="M{LEFT} {FLOOR - height(count):.2f}H{RIGHT}"/>')
        marks.append(_label(LEFT - 10, FLOOR - height(count) + 5, "end", f"{count:,}"))
    marks += [
        f'<rect class="bar" x="{LEFT + i * pitch + 0.5:.2f}" y="{FLOOR - height(count):.2f}" '
        f'width="{pitch - 1:.2f}" height="{height(count):.2f}"/>'
        for i, count in enumerate(counts)
        if count
    ]
    marks.append(f'<path class="axis" d="M{LEFT} {FLOOR}H{RIGHT}"/>')
    for value, name in _score_ticks(low, high):
        marks.append(f'<path class="axis" d="M{across(value):.2f} {FLOOR}v6"/>')
        marks.append(_label(across(value), FLOOR + 26, "middle", name))
    marks.append(_label(0.0, 16.0, "start", counted.capitalize()))
    marks.append(_label((LEFT + RIGHT) / 2, FLOOR + 58, "middle", "Score"))
    title = f"Histogram of the scores of {len(values):,} {counted}"
    opening = f'<svg viewBox="0 0 640 280" role="img" aria-label="{title}">'
    return "\n".join([opening, *marks, "</svg>"])


def _label(x: float, y: float, anchor: str, text: str, style: str = "tick") -> str:
    return f'<text class="{style}" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{text}</text>'


def _span(low: float, high: float) -> tuple[float, float]:
    """Where the histogram begins and ends; equal scores are given some width to stand in."""
    largest = max(abs(low), abs(high))
    if high - low > 1e-9 * largest:
        return low, high
    return low - (largest or 1.0), high + (largest or 1.0)


def _count_ticks(most: int) -> list[int]:
    factors = (1, 2, 5) if most < 50 else (1,)
    ticks = [factor * 10**power for power in range(len(str(most))) for factor in factors]
    return [tick for tick in ticks if tick <= most]


def _score_ticks(low: float, high: float) -> Iterator[tuple[float, str]]:
    """At most seven round scores, 1, 2 or 5 times a power of ten apart."""
    power = math.floor(math.log10((high - low) / 6))
    factor = next(factor for factor in (1, 2, 5, 10) if factor * 10.0**power >= (high - low) / 6)
    step, decimals = factor * 10.0**power, max(0, -power - (factor == 10))
    for i in range(math.ceil(low / step), math.floor(high / step) + 1):
        name = f"{i * step:+.{decimals}f}" if -4 < power < 4 else f"{i * step:+.2g}"
        yield i * step, name.replace("-", "\N{MINUS SIGN}") if i else "0"
