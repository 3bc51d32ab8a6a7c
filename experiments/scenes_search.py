"""What `scenes.py search` chooses among: train sides with concept queries, parameters,
projections.
"""

from __future__ import annotations

from typing import Any

from headwater.features.spec import Side
from headwater.methods.row import Method
from headwater.methods.table import METHODS as ALL

# Train sides, all without normalising, with each concept query; `ROWS` are of the methods' table.
TRAINS = {
    "dsm": Side("noising", "dsm"),
    "dps": Side("noising", "dps"),
    "inverted dps": Side("inversion", "dps"),
    "square": Side("noising", "square"),
    "mean": Side("noising", "mean"),
    "l1": Side("noising", "l1"),
    "weighted": Side("noising", "weighted"),
}
QUERIES = {
    "concept": Side("generation", "concept"),
    "contrast": Side("generation", "contrast"),
    "captions": Side("captions"),
}
ROWS = (
    "concept-trak-unguided",
    "concept-trak-a",
    "concept-trak-b",
    "concept-trak-c-unguided",
    "concept-d-trak",
    "caption-d-trak",
)
PAIRED = (
    *(
        Method(
            f"{train}, {query}",
            "ours",
            side,
            None,
            "trak",
            ("concept",),
            concept=asked,
            scorer="captions" if query == "captions" else "gradient",
        )
        for train, side in TRAINS.items()
        for query, asked in QUERIES.items()
        if not any(
            (ALL[row].train, ALL[row].normalise, ALL[row].asks("concept")) == (side, "none", asked)
            for row in ROWS
        )
    ),
    Method("dsm, concept, dot", "ours", TRAINS["dsm"], None, "dot", ("concept",)),
)
MAIN = ("concept-trak-unguided", "concept-d-trak", "caption-d-trak")
# Over which parameters, by which projection, which methods.
SEARCHED: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("attn2", {}, (*ROWS, *(method.name for method in PAIRED))),
    ("all", {}, ROWS),
    ("attn2", {"projection": "mask"}, MAIN),
    ("attn2", {"projection": "factored"}, MAIN),
    ("attn2", {"dim": 1024}, MAIN),
)
