"""What the scores of each method are worth against a truth: the rows of a table.

Images that are ambiguous for a concept are taken out before anything is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headwater.errors import QueryError, StoreError
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.ground_truth.oracles import MEMBERSHIP, membership, shuffled
from headwater.evaluation.metrics import retrieval
from headwater.evaluation.metrics.intervals import interval
from headwater.evaluation.metrics.retrieval import (
    average_precision,
    capped_recall_at,
    false_caption_rate,
    precision_at,
    recall_at,
    shown_unnamed_precision,
)
from headwater.evaluation.reporting.plots import bars, require_matplotlib
from headwater.evaluation.reporting.results import write_results
from headwater.evaluation.studies.method_scores import Asking, scores
from headwater.index.index import Index
from headwater.methods import Method

Measures = dict[str, float | None]
Measure = Callable[[Truth, Float[np.ndarray, " n"], int], Measures]


def isolation(truth: Truth, found: Float[np.ndarray, " n"], k: int = 10) -> Measures:
    """Precision, the same k's rate of the prompt's other concepts, and their difference.

    None where the prompt names no other.
    """
    kept = ~truth.ambiguous
    found, shows = found[kept], truth.shows[kept]
    precision = precision_at(found, shows, k)
    alone = None
    if truth.others:
        alone = retrieval.isolation(found, shows, [o[kept] for o in truth.others.values()], k)
    return {
        f"precision@{k}": precision,
        f"others@{k}": None if alone is None else precision - alone,
        "isolation": alone,
    }


def everything(truth: Truth, found: Float[np.ndarray, " n"], k: int = 10) -> Measures:
    """All of `evaluation.retrieval`, and the lexical control; None where there is nothing to count.

    That is isolation of a prompt that names no other concept, and the control's columns where all
    captions name what is shown (or no caption names what is not).
    """
    kept = ~truth.ambiguous
    alone = isolation(truth, found, k)
    found, shows, names = found[kept], truth.shows[kept], truth.names[kept]
    unnamed, false = (shows & ~names).any(), (names & ~shows).any()
    return {
        f"precision@{k}": alone[f"precision@{k}"],
        "precision@50": precision_at(found, shows, 50),
        f"recall@{k}": recall_at(found, shows, k),
        f"capped recall@{k}": capped_recall_at(found, shows, k),
        "average precision": average_precision(found, shows),
        "isolation": alone["isolation"],
        f"unnamed precision@{k}": (
            shown_unnamed_precision(found, shows, names, k) if unnamed else None
        ),
        f"falsely named@{k}": (false_caption_rate(found, shows, names, k) if false else None),
    }


def meanings(k: int) -> dict[str, str]:
    """What each column is, in a line."""
    return {
        f"precision@{k}": f"share of the {k} highest that show the concept",
        f"others@{k}": f"mean share of the {k} highest that show each other concept of the prompt",
        "isolation": f"precision@{k} minus the mean share, of the same {k}, that show each other "
        "concept of the prompt; 0 tells nothing apart",
        f"recall@{k}": f"share of all images that show it which are among the {k} highest",
        f"capped recall@{k}": f"hits among the {k} highest, of as many as there can be",
        f"unnamed precision@{k}": "precision among images whose caption does not name the concept, "
        "below 1 where few of them show it; word matching is at chance",
        f"falsely named@{k}": f"share of the {k} highest whose caption names the concept, but that "
        "do not show it",
    }


# --- a whole evaluation ---------------------------------------------------------------------------

# Name -> what is measured, and what is plotted of it.
EVALUATIONS: dict[str, tuple[Measure, Sequence[str]]] = {
    "isolation": (isolation, ("precision@{k}", "isolation")),
    "retrieval": (everything, ("precision@{k}", "average precision", "isolation")),
}


def evaluate(
    kind: str,
    methods: Mapping[Method, Index],
    truths: Sequence[Truth],
    asking: Asking,
    out: Path,
    about: Mapping[str, Any],
    k: int = 10,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Ask every method for every concept; the rows, and `results.json` of the folder `out`.

    Args:
        kind: a key of `EVALUATIONS`.
        methods: see `answers.serving`.
        about: see `results.write_results`.

    Raises:
        HeadwaterError: matplotlib is not there.
        QueryError: isolation, and no prompt names another concept.
        StoreError: `out` cannot be written.
    """
    require_matplotlib()
    _require_folder(out)
    if kind == "isolation" and not any(truth.others for truth in truths):
        raise QueryError(
            "no prompt of the truth names two of its concepts, so there is nothing to tell apart: "
            "give `prompt` and `others`"
        )
    measure, plotted = EVALUATIONS[kind]
    found = scores(methods, truths, asking, out / "scores")
    found[MEMBERSHIP] = shuffled(membership(truths))
    values = {name: measured(measure, truths, rows, k) for name, rows in found.items()}
    rows = _rows(methods, values)
    written = write_results(
        out,
        f"{kind.capitalize()}: {len(truths)} concepts, {len(truths[0].shows)} images",
        about,
        rows,
        [
            *(f"{column}: {text}" for column, text in meanings(k).items() if column in rows[0]),
            'intervals: 95%, over concepts; "-": nothing to count',
        ],
        indexes=[_facts(index) for index in dict.fromkeys(methods.values())],
        concepts=[_counts(truth) for truth in truths],
        values=values,
    )
    for metric in (name.format(k=k) for name in plotted):
        counts = [row[metric].n for row in rows if row[metric]]
        if counts:
            path = out / f"{metric.partition('@')[0].replace(' ', '-')}.png"
            bars(path, rows, metric, title=f"{metric}, {max(counts)} concepts", group="asked")
    return rows, written


def measured(
    measure: Measure, truths: Sequence[Truth], rows: Float[np.ndarray, "q n"], k: int
) -> dict[str, list[float | None]]:
    """Each measure's values, concept by concept."""
    each = [measure(truth, row, k) for truth, row in zip(truths, rows, strict=True)]
    return {name: [values[name] for values in each] for name in each[0]}


def said(method: Method, index: Index) -> dict[str, str | None]:
    """What a method was asked about, and of which parameters its gradients are."""
    gradients = method.train is not None and method.train.gradient
    kind = "concept" if "concept" in method.takes else "image"
    return {"asked": kind, "parameters": index.recipe.parameters if gradients else None}


def _rows(
    methods: Mapping[Method, Index], values: Mapping[str, Mapping[str, Sequence[float | None]]]
) -> list[dict[str, Any]]:
    facts = {method.name: said(method, index) for method, index in methods.items()}
    facts[MEMBERSHIP] = {"asked": "caption", "parameters": None}
    return [
        {"method": name, **facts[name], **{metric: interval(v) for metric, v in each.items()}}
        for name, each in values.items()
    ]


def _require_folder(out: Path) -> None:
    """Refuse before hours of work what could not be written after them."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write to {out}: {error.strerror or error}") from None


def _facts(index: Index) -> dict[str, Any]:
    manifest = index.manifest
    parts = {"model": manifest.model, "data": manifest.data, "recipe": manifest.recipe}
    return {"path": str(index.path), **{name: dict(part) for name, part in parts.items()}}


def _counts(truth: Truth) -> dict[str, Any]:
    counts = {name: int(getattr(truth, name).sum()) for name in ("shows", "ambiguous", "names")}
    return {
        "concept": truth.concept,
        "prompt": truth.prompt,
        "others": list(truth.others),
        **counts,
    }
