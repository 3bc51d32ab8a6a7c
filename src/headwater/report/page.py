"""One HTML file that is complete in itself: what every page has around its own sections.

Pictures are embedded, there is no script, and a content policy in the file's head forbids the
browser to load anything from elsewhere. The frame is `templates/base.html`, which the template of
each kind of page extends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from headwater.report.rendering import render

NOTHING = "—"  # stands where there is no value


@dataclass(frozen=True)
class Page:
    """What stands on every page.

    Attributes:
        pictures: those that were asked about, each with a caption; of a single one it may be "".
        prompt: that the pictures were made from; "" where there was none.
        reading: how to read the page, point by point.
        provenance: what was computed, from what and how, nested as it comes.
        limits: what the page does not say, point by point.
        unsaid: the same in one sentence, for the first page.
    """

    pictures: Sequence[tuple[str, Image.Image]]
    prompt: str
    reading: Sequence[str]
    provenance: Mapping[str, Any]
    limits: Sequence[str] = ()
    unsaid: str = ""

    @property
    def entries(self) -> list[tuple[str, list[str]]]:
        """The provenance as rows of a table."""
        return list(flatten(self.provenance))

    @property
    def checksums(self) -> list[tuple[str, str]]:
        """What an index is known by, each with what it is of, as far as the provenance has it."""
        model, data = (self.provenance.get(name) for name in ("model", "data"))
        found = [("model", _fingerprint(model)), ("images", _fingerprint(data))]
        found += [("rows", rows) for rows in self.provenance.get("rows") or ()]
        return [(of, str(checksum).rpartition(":")[2]) for of, checksum in found if checksum]


def render_page(template: str, page: Page, **content: Any) -> str:
    """The whole file: `template` extends base.html and fills its blocks from `content`."""
    return render(template, page=page, **content)


def flatten(mapping: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Nested mappings, also those in lists, as one row per leaf: its path and its values.

    >>> list(flatten({"recipe": {"steps": [1, 2], "seed": None}, "shards": [{"rows": 9}]}))
    [('recipe.steps', ['1', '2']), ('recipe.seed', ['—']), ('shards.0.rows', ['9'])]
    """
    for key, value in mapping.items():
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(_leaves(value))


def _fingerprint(facts: Any) -> str:
    return str(facts.get("fingerprint") or "") if isinstance(facts, Mapping) else ""


def _leaves(value: Any) -> Iterator[str]:
    empty = value is None or (isinstance(value, str | list | tuple | Mapping) and not value)
    if empty:
        yield NOTHING
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield str(value)
