"""One HTML file that is complete in itself, and what may stand in it.

Pictures are embedded, there is no script, and a content policy in the file's head forbids the
browser to load anything from elsewhere. Every string from outside passes through `text`, which is
the only way into a page. What never changes is `report.html.in`; this module fills it in.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from PIL import Image

from headwater.data.images import data_uri
from headwater.report.contact_sheet import format_error, format_score

# Embedded pictures have at most this many pixels a side: the one asked about, and one in a grid.
QUERY_SIDE, GRID_SIDE = 512, 384

# Up to this size a picture is shown with its pixels, a larger one smoothly.
PIXELATED = 128


def page(
    *,
    title: str,
    question: str,
    facts: Mapping[str, str],
    pictures: Sequence[tuple[str, Image.Image]],
    prompt: str,
    sections: Sequence[str],
    reading: Sequence[str],
    provenance: Mapping[str, Any],
) -> str:
    """The whole file. Title, question, the values of facts and the sections are markup already.

    `pictures` are those that were asked about, with a caption each where there are several;
    `reading` says how to read the page, point by point.
    """
    template = files("headwater.report").joinpath("page.html.in").read_text(encoding="utf-8")
    listed = "\n".join(f"<dt>{text(k)}</dt><dd>{value or '—'}</dd>" for k, value in facts.items())
    return Template(template).substitute(
        title=title,
        question=question,
        figures=_asked_about(pictures, prompt),
        facts=listed,
        sections="\n".join(sections),
        reading="\n".join(f"<li>{text(point)}</li>" for point in reading),
        provenance=_provenance(provenance),
    )


def _asked_about(pictures: Sequence[tuple[str, Image.Image]], prompt: str) -> str:
    if not pictures:
        return ""
    figures = ""
    for caption, image in pictures:
        alt = caption or "The picture that was asked about"
        shown = picture(image, f"{alt}. Prompt: {prompt}" if prompt else alt, QUERY_SIDE)
        below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
        figures += f"<figure>{shown}{below}</figure>"
    return f'<div class="asked">{figures}</div>'


def picture(image: Image.Image | None, alt: str, side: int) -> str:
    """A square with the picture in it, or words that say that there is none."""
    if image is None:
        return f'<div class="picture" role="img" aria-label="{text(alt)}">image not found</div>'
    pixels = ' class="pixels"' if max(image.size) <= PIXELATED else ""
    source = data_uri(image, side)
    return f'<div class="picture"><img{pixels} alt="{text(alt)}" src="{source}"></div>'


def score(value: float, error: float | None = None) -> str:
    """A score with its sign, and its standard error where there is one."""
    said = format_score(value).replace("-", "\N{MINUS SIGN}")
    return said if error is None else f"{said} ± {format_error(error)}"


def text(value: object) -> str:
    """Escaped; a lone surrogate, from a file name that is no UTF-8, becomes a question mark."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


# --- provenance -----------------------------------------------------------------------------------


def _provenance(provenance: Mapping[str, Any]) -> str:
    return "\n".join(
        f'<tr><th scope="row"><code>{text(key)}</code></th><td>{_value(value)}</td></tr>'
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
    said = "—" if value is None or value == "" else text(value)
    return f"<code>{said}</code>" if re.fullmatch(r"(\w+:)?[0-9a-fA-F]{16,}", said) else said
