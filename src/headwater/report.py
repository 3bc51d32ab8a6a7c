"""What people look at: one HTML file that answers the question, for readers who are no experts.

The file is complete in itself. Pictures are embedded, the plot is drawn as SVG, there is no
script, and a content policy in its head forbids the browser to load anything from elsewhere.
Every string from outside passes through `_text`, which is the only way into the page.

What never changes is `report.html.in`; this module fills it in. The same answer as one picture, a
contact sheet, is made by `headwater.sheets`.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from headwater.sheets import Entry, contact_sheet, data_uri, format_score

__all__ = ["Answer", "Entry", "contact_sheet", "html_report"]

# Embedded pictures have at most this many pixels a side: the one asked about, and one in a grid.
QUERY_SIDE, GRID_SIDE = 512, 384

# Up to this size a picture is shown with its pixels, a larger one smoothly.
PIXELATED = 128

# The histogram: how many bars, how many images count as the top, and its frame in the drawing.
BINS, TOP = 40, 10
LEFT, RIGHT, CEILING, FLOOR = 64.0, 600.0, 40.0, 210.0


@dataclass(frozen=True)
class Answer:
    """The answer for one concept: what was compared, the extremes, and the score of every image.

    Attributes:
        plus, minus: the text with the concept and without; both empty for a method that compares
            no texts.
        context: how the texts were compared, "over 16 training captions", to end that sentence.
        top, bottom: proponents, the strongest first, and opponents likewise; either may be empty.
        scores: of all training images, for the histogram.
    """

    concept: str
    plus: str
    minus: str
    context: str
    top: Sequence[Entry]
    bottom: Sequence[Entry]
    scores: Sequence[float]


def html_report(
    *,
    prompt: str,
    method: str,
    answers: Sequence[Answer],
    query_image: Image.Image | None,
    provenance: Mapping[str, Any],
) -> str:
    """The whole report as the text of one HTML file."""
    concepts = [answer.concept for answer in answers]
    images = max((len(answer.scores) for answer in answers), default=0)
    figure = ""
    if query_image is not None:
        alt = f"The picture that was asked about. Prompt: {prompt}"
        figure = f"<figure>{_picture(query_image, alt, QUERY_SIDE)}</figure>"
    template = files("headwater").joinpath("report.html.in").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=f"Which training images taught the model {_listed(concepts, '“{}”')}?",
        question=f"Which training images taught the model {_listed(concepts, '“<em>{}</em>”')}?",
        figure=figure,
        prompt=_marked(prompt, concepts) or "—",
        method=_text(method),
        images=f"{images:,}",
        answers="\n".join(_section(answer) for answer in answers),
        provenance=_provenance(provenance),
    )


def _listed(concepts: Sequence[str], pattern: str) -> str:
    *others, last = [pattern.format(_text(concept)) for concept in concepts] or ["this"]
    return f"{', '.join(others)} and {last}" if others else last


def _marked(prompt: str, concepts: Sequence[str]) -> str:
    """The prompt with each concept marked: as it stands, or else word by word."""
    wanted: list[str] = []
    for concept in concepts:
        wanted += [concept] if concept.lower() in prompt.lower() else concept.split()
    choice = "|".join(re.escape(word) for word in sorted(wanted, key=len, reverse=True) if word)
    # Splitting at a group keeps what it matched, as every second part. "(?!)" matches nothing.
    parts = re.split(rf"(?<!\w)({choice or '(?!)'})(?!\w)", prompt, flags=re.IGNORECASE)
    texts = map(_text, parts)
    return "".join(f"<mark>{text}</mark>" if i % 2 else text for i, text in enumerate(texts))


def _section(answer: Answer) -> str:
    concept = _text(answer.concept)
    return f"""<section>
<h2>“<em>{concept}</em>”</h2>
<p class="muted">{_comparison(answer)}</p>
<h3>Proponents</h3>
<p class="muted">Training on these images pushes the model towards “{concept}”. The strongest
comes first.</p>
{_grid(answer.top, "images")}
{_opponents(answer)}
{_listing([*answer.top, *answer.bottom])}
{_distribution(answer.scores)}
</section>"""


def _comparison(answer: Answer) -> str:
    """One sentence on what was compared; a method that compares nothing has its context alone."""
    if not answer.plus and not answer.minus:
        return _text(answer.context)
    plus, minus = (
        f"“{_text(side)}”" if side else "no words" for side in (answer.plus, answer.minus)
    )
    context = f", {_text(answer.context)}" if answer.context else ""
    return f"What the model makes of {plus} was compared with what it makes of {minus}{context}."


def _opponents(answer: Answer) -> str:
    if not answer.bottom:
        return ""
    away = f"away from “{_text(answer.concept)}”"
    lead = f"Training on an image with a negative score pushes the model {away}."
    if all(entry.score >= 0 for entry in answer.bottom):
        lead = "These are the lowest scores, but none is negative: no image is an opponent."
    return f"""<details>
<summary>Opponents ({len(answer.bottom)})</summary>
<p class="muted">{lead}</p>
{_grid(answer.bottom, "small images")}
</details>"""


def _grid(entries: Sequence[Entry], style: str) -> str:
    if not entries:
        return '<p class="muted">There are none.</p>'
    items = "\n".join(f"<li>{_figure(entry)}</li>" for entry in entries)
    return f'<ol class="{style}">\n{items}\n</ol>'


def _figure(entry: Entry) -> str:
    alt = f"Training image {entry.id}" + (f": {entry.caption}" if entry.caption else "")
    return f"""<figure>{_picture(entry.image, alt, GRID_SIDE)}
<figcaption>
<span class="numbers"><b>{entry.rank}</b> <span>{_score(entry.score)}</span></span>
<span class="caption" dir="auto">{_text(entry.caption)}</span>
<span class="id">{_text(entry.id)}</span>
</figcaption></figure>"""


def _picture(image: Image.Image | None, alt: str, side: int) -> str:
    if image is None:
        return f'<div class="picture" role="img" aria-label="{_text(alt)}">image not found</div>'
    pixels = ' class="pixels"' if max(image.size) <= PIXELATED else ""
    source = data_uri(image, side)
    return f'<div class="picture"><img{pixels} alt="{_text(alt)}" src="{source}"></div>'


def _listing(entries: Sequence[Entry]) -> str:
    """The images once more as a table: whole captions, and the sources a grid has no room for."""
    rows = "\n".join(
        f"<tr><td>{entry.rank}</td><td>{_score(entry.score)}</td><td>{_text(entry.id)}</td>"
        f'<td dir="auto">{_text(entry.caption)}</td><td>{_text(entry.uri)}</td></tr>'
        for entry in entries
    )
    return f"""<details>
<summary>List with sources</summary>
<div class="scroll"><table class="listing">
<thead><tr><th>Rank</th><th>Score</th><th>Id</th><th>Caption</th><th>Source</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
</details>"""


def _distribution(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    values = np.sort(np.asarray(scores, dtype=float))
    threshold = float(values[-TOP]) if len(values) > TOP else None
    tinted = f" The tinted part holds the {TOP} highest of {len(values):,}."
    return f"""<h3>All scores</h3>
<div class="histogram">
{_histogram(values, threshold)}
<p class="muted">Each bar counts the training images with a score in its range, on a logarithmic
scale, so that one image stays visible beside hundreds.{"" if threshold is None else tinted}</p>
</div>"""


def _histogram(values: np.ndarray, threshold: float | None) -> str:
    """Sorted scores as an inline SVG: one bar per bin that is not empty, the top tinted."""
    low, high = _span(values[0], values[-1])
    counts = np.histogram(values, BINS, range=(low, high))[0].tolist()

    def across(score: float) -> float:
        return LEFT + (RIGHT - LEFT) * (score - low) / (high - low)

    # The axis starts at half an image, for a bar of one image to have a height.
    def height(count: int) -> float:
        return (FLOOR - CEILING) * math.log(2 * count) / math.log(2.5 * max(counts))

    marks, pitch = [], (RIGHT - LEFT) / BINS
    if threshold is not None:
        at = across(threshold)
        marks.append(f'<path class="band" d="M{at:.2f} {FLOOR}V{CEILING}H{RIGHT}V{FLOOR}z"/>')
        marks.append(f'<path class="threshold" d="M{at:.2f} {FLOOR}V{CEILING}"/>')
        marks.append(_label(RIGHT, 16.0, "end", f"Top {TOP}: from {_score(threshold)}", "top"))
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
    for score, name in _score_ticks(low, high):
        marks.append(f'<path class="axis" d="M{across(score):.2f} {FLOOR}v6"/>')
        marks.append(_label(across(score), FLOOR + 26, "middle", name))
    marks.append(_label(0.0, 16.0, "start", "Training images"))
    marks.append(_label((LEFT + RIGHT) / 2, FLOOR + 58, "middle", "Score"))
    title = f"Histogram of the scores of {len(values):,} training images"
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


def _provenance(provenance: Mapping[str, Any]) -> str:
    return "\n".join(
        f'<tr><th scope="row"><code>{_text(key)}</code></th><td>{_value(value)}</td></tr>'
        for key, value in _flat(provenance)
    )


def _flat(mapping: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings, also those in lists, as one row per leaf: `recipe.timesteps`."""
    for key, value in mapping.items():
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value) or "—"
    text = "—" if value is None or value == "" else _text(value)
    return f"<code>{text}</code>" if re.fullmatch(r"(\w+:)?[0-9a-fA-F]{16,}", text) else text


def _score(score: float) -> str:
    return format_score(score).replace("-", "\N{MINUS SIGN}")


def _text(value: object) -> str:
    """Escaped; a lone surrogate, from a file name that is no UTF-8, becomes a question mark."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))
