"""Curves over the steps of a picture's making, as an inline SVG with a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headwater.page import text

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
