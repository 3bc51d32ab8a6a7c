"""An audit of captions on disk: every finding as a table, and one report to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa

from headwater.index.index import Index
from headwater.quick.audit import Audit, Finding
from headwater.report.page import Page, render_page
from headwater.storage.files import changing, remove_abandoned, write_table, write_text

READING = (
    "The number beside a rank is a strength: by how much better, for the model, what it sees "
    "explains the image than what the caption says (or, where that says nothing, than the second "
    "best). 1 is the median of captions that name what the model sees.",
    "The model's eyes are those of its own training: it looks at each image under its caption with "
    "one word exchanged, and takes the word with which it is least wrong. Where it draws something "
    "badly, it sees it badly too.",
    "Of each doubted caption the strongest doubt is shown: one false word makes the model doubt "
    "others beside it, so mend that, and look again.",
    "An image that shows two values of a kind, or none, is misjudged: a caption that names one of "
    "two may be right.",
    "This is content, not influence: it says nothing of how much an image taught the model.",
)


@dataclass(frozen=True)
class Shown:
    """A finding as the report shows it; `image` is None where it could not be opened."""

    rank: int
    id: str
    caption: str
    says: str
    sees: str
    strength: float
    image: PIL.Image.Image | None


def write_audit(index: Index, audit: Audit, out: str | Path, top: int = 20) -> dict[str, Any]:
    """Write `report.html` and `findings.parquet`, and return the audit as a JSON-ready object.

    Args:
        index: of the images.
        top: how many of each list are shown; the table holds all.

    Raises:
        StoreError: `out` cannot be written.
    """
    out = Path(out)
    lists = {"wrong": audit.wrong, "unsaid": audit.unsaid}
    origin = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "headwater": metadata.version("headwater"),
        **audit.provenance,
    }
    remarks = [f"{remark}." for remark in audit.remarks]
    page = render_page(
        "audit.html",
        Page((), "", READING, origin),
        images=len(index),
        wrong_count=len(audit.wrong),
        unsaid_count=len(audit.unsaid),
        kinds=audit.kinds,
        remarks=remarks,
        **{name: _shown(index, found[:top]) for name, found in lists.items()},
    )
    with changing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_table(out / "findings.parquet", _table(lists["wrong"], lists["unsaid"]))
        write_text(out / "report.html", page)
    remove_abandoned(out)
    return {
        "index": str(index.path),
        "images": len(index),
        **{name: [_facts(each) for each in found[:top]] for name, found in lists.items()},
        "counts": {name: len(found) for name, found in lists.items()},
        "kinds": [
            {"values": list(kind.values), "unseen": list(kind.unseen), "agreed": kind.agreed}
            for kind in audit.kinds
        ],
        "remarks": remarks,
        "provenance": origin,
        "out": str(out),
    }


def _shown(index: Index, findings: Sequence[Finding]) -> list[Shown]:
    return [
        Shown(rank, **_facts(each), image=index.image(each.row))
        for rank, each in enumerate(findings, 1)
    ]


def _facts(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.sample.id,
        "caption": finding.sample.caption_line,
        "says": finding.says,
        "sees": finding.sees,
        "strength": finding.strength,
    }


def _table(wrong: Sequence[Finding], unsaid: Sequence[Finding]) -> pa.Table:
    """All findings, both lists one below the other."""
    every = [("wrong", each) for each in wrong] + [("unsaid", each) for each in unsaid]
    text, number = pa.string(), pa.float64()
    schema = [("finding", text), ("id", text), ("says", text), ("sees", text)]
    schema += [("strength", number), ("caption", text), ("uri", text)]
    rows = [{"finding": name, **_facts(each), "uri": each.sample.uri} for name, each in every]
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))
