"""Where the marks of drawings stand: a histogram, bars of groups, curves over a picture's steps.

Only geometry, in the units of the drawing's view box, y downwards. `templates/charts.html` turns it
into inline SVG.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headwater.report.rendering import signed_score, with_minus

BINS, TOP = 40, 10  # bars of a histogram, and how many of the highest scores are tinted
SCORE_INTERVALS, STEP_TICKS = 6, 10  # that an axis has at most
# How many colours style.css has, and dashes, through which a line that is covered shows.
COLOURS, DASHES = 6, ("", "9 7", "3 5", "12 4 3 4")


@dataclass(frozen=True)
class Frame:
    """The rectangle that values are drawn in: where `across` and `up`, from 0 to 1, lie."""

    left: float
    right: float
    top: float
    bottom: float

    def x(self, across: float) -> float:
        """From the left edge, 0, to the right, 1."""
        return self.left + (self.right - self.left) * across

    def y(self, up: float) -> float:
        """From the bottom, 0, to the top, 1."""
        return self.bottom - (self.bottom - self.top) * up


HISTOGRAM_FRAME = Frame(64.0, 600.0, 40.0, 210.0)
CURVES_FRAME = Frame(44.0, 620.0, 14.0, 214.0)


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A rectangle, from its upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Histogram:
    """Scores as bars.

    Attributes:
        counted: what each is the score of, in the plural.
        images: how many there are.
        bars: one for each bin that is not empty, on a logarithmic scale.
        counts, scores: the ticks of the upright axis and of the one below.
        threshold: the score from which on an image is one of the TOP; None where all are.
        marks: where scores stand that are marked.
    """

    counted: str
    images: int
    bars: Sequence[Bar]
    counts: Sequence[Tick]
    scores: Sequence[Tick]
    threshold: Tick | None
    frame: Frame = HISTOGRAM_FRAME
    top: int = TOP
    marks: Sequence[float] = ()


@dataclass(frozen=True)
class Span:
    """A score as a bar from zero, and its standard error as a line over it; from 0 to 100 across.

    Attributes:
        zero: where the bar begins, to the right of a score above it.
        x, width: of the bar.
        error: from where to where the line goes; None where there is no error.
    """

    zero: float
    x: float
    width: float
    error: tuple[float, float] | None


@dataclass(frozen=True)
class Curve:
    """One line: its name, the points that it goes through, and its looks."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashes: str


@dataclass(frozen=True)
class Curves:
    """Lines over the steps of a picture's making, with the ticks of both axes."""

    lines: Sequence[Curve]
    values: Sequence[Tick]
    steps: Sequence[Tick]
    frame: Frame = CURVES_FRAME


# --- the histogram --------------------------------------------------------------------------------


def histogram(
    scores: Sequence[float], counted: str = "training images", marked: Sequence[float] = ()
) -> Histogram | None:
    """The scores of what is counted, or None where there are none; some of them marked.

    >>> drawing = histogram([0.1, 0.1, 0.3])
    >>> len(drawing.bars), drawing.threshold, [tick.label for tick in drawing.counts]
    (2, None, ['1', '2'])
    """
    if not scores:
        return None
    frame = HISTOGRAM_FRAME
    values = np.sort(np.asarray(scores, dtype=float))
    low, high = _range(values[0], values[-1])
    counts = np.histogram(values, BINS, range=(low, high))[0].tolist()
    most = max(counts)

    def x(score: float) -> float:
        return frame.x((score - low) / (high - low))

    threshold = float(values[-TOP]) if len(values) > TOP else None
    return Histogram(
        counted,
        len(values),
        list(_bars(counts, frame)),
        [Tick(frame.y(_height(count, most)), f"{count:,}") for count in _count_ticks(most)],
        [Tick(x(score), label) for score, label in _score_ticks(low, high)],
        None if threshold is None else Tick(x(threshold), signed_score(threshold)),
        marks=[x(score) for score in marked if low <= score <= high],
    )


def _range(low: float, high: float) -> tuple[float, float]:
    """Where the histogram begins and ends; equal scores are given some width to stand in."""
    largest = max(abs(low), abs(high))
    if high - low > 1e-9 * largest:
        return low, high
    return low - (largest or 1.0), high + (largest or 1.0)


def _height(count: int, most: int) -> float:
    """On a scale that starts at half an image, for a bar of one image to have a height."""
    return math.log(2 * count) / math.log(2.5 * most)


def _bars(counts: Sequence[int], frame: Frame) -> Iterator[Bar]:
    pitch = (frame.right - frame.left) / len(counts)
    for i, count in enumerate(counts):
        if count:
            y = frame.y(_height(count, max(counts)))
            yield Bar(frame.left + i * pitch + 0.5, y, pitch - 1, frame.bottom - y)


def _count_ticks(most: int) -> list[int]:
    factors = (1, 2, 5) if most < 50 else (1,)
    ticks = [factor * 10**power for power in range(len(str(most))) for factor in factors]
    return [tick for tick in ticks if tick <= most]


def _score_ticks(low: float, high: float) -> Iterator[tuple[float, str]]:
    """At most seven round scores, 1, 2 or 5 times a power of ten apart."""
    least = (high - low) / SCORE_INTERVALS
    power = math.floor(math.log10(least))
    factor = next(factor for factor in (1, 2, 5, 10) if factor * 10.0**power >= least)
    step, decimals = factor * 10.0**power, max(0, -power - (factor == 10))
    for i in range(math.ceil(low / step), math.floor(high / step) + 1):
        label = f"{i * step:+.{decimals}f}" if -4 < power < 4 else f"{i * step:+.2g}"
        yield i * step, with_minus(label) if i else "0"


# --- groups ---------------------------------------------------------------------------------------


def spans(scores: Sequence[float], errors: Sequence[float | None]) -> list[Span]:
    """Scores on one scale, which holds zero and every score with its error.

    >>> spans([3.0, -1.0], [1.0, None])[0]
    Span(zero=20.0, x=20.0, width=60.0, error=(60.0, 100.0))
    """
    reach = [
        (score - (error or 0), score + (error or 0))
        for score, error in zip(scores, errors, strict=True)
    ]
    low, high = min([0.0, *(a for a, _ in reach)]), max([0.0, *(b for _, b in reach)])
    size = (high - low) or 1.0

    def x(value: float) -> float:
        return 100 * (value - low) / size

    return [
        Span(
            x(0.0),
            min(x(0.0), x(score)),
            abs(x(score) - x(0.0)),
            None if error is None else (x(ends[0]), x(ends[1])),
        )
        for score, error, ends in zip(scores, errors, reach, strict=True)
    ]


# --- curves ---------------------------------------------------------------------------------------


def curves(steps: Sequence[int], lines: Mapping[str, Sequence[float]]) -> Curves:
    """One line for each name, from the first step, at the left, to the last.

    Args:
        steps: timesteps, noisiest first; a step's place across is its time.
        lines: for each name a value at each step. The axis goes from 0 to 1, and further where a
            value does.
    """
    frame = CURVES_FRAME
    values = [value for line in lines.values() for value in line]
    low, high = min(0.0, *values), max(1.0, *values)
    span = (steps[0] - steps[-1]) or 1

    def x(step: int) -> float:
        return frame.x((steps[0] - step) / span)

    def y(value: float) -> float:
        return frame.y((value - low) / (high - low))

    return Curves(
        [
            Curve(name, [(x(t), y(v)) for t, v in zip(steps, line, strict=True)], *_looks(i))
            for i, (name, line) in enumerate(lines.items())
        ],
        [Tick(y(value), with_minus(f"{value:.2g}")) for value in (low, (low + high) / 2, high)],
        [Tick(x(step), str(step)) for step in _spaced(steps)],
    )


def _looks(i: int) -> tuple[int, str]:
    """The colour and the dashes of the i-th line; of the first 24 no two are alike."""
    return i % COLOURS, DASHES[(i + i // COLOURS) % len(DASHES)]


def _spaced(steps: Sequence[int]) -> Sequence[int]:
    """Steps to be labelled: all, or every so many where they would not fit."""
    return steps[:: -(-len(steps) // STEP_TICKS)]
