"""What the scores of each method are worth against a truth: the rows of a table.

Images that are ambiguous for a concept are taken out before anything is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headwater.errors import QueryError
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.ground_truth.oracles import MEMBERSHIP, break_ties, membership
from headwater.evaluation.metrics.intervals import interval
from headwater.evaluation.metrics.retrieval import (
    average_precision,
    capped_recall_at,
    false_caption_rate,
    isolation,
    precision_at,
    recall_at,
    shown_unnamed_precision,
)
from headwater.evaluation.reporting.plots import plot_bars, require_matplotlib
from headwater.evaluation.reporting.results import write_results
from headwater.evaluation.studies.method_indexes import query_kind, uses_gradients
from headwater.evaluation.studies.method_scores import QuestionOptions, score_concepts
from headwater.index.index import Index
from headwater.methods.row import Method
from headwater.storage.files import changing

Measures = dict[str, float | None]
Measure = Callable[[Truth, Float[np.ndarray, " n"], int], Measures]


def isolation_metrics(truth: Truth, scores: Float[np.ndarray, " n"], k: int = 10) -> Measures:
    """Precision, the same k's rate of the prompt's other concepts, and their difference.

    None where the prompt names no other.
    """
    kept = ~truth.ambiguous
    scores, shows = scores[kept], truth.shows[kept]
    precision = precision_at(scores, shows, k)
    alone = None
    if truth.others:
        alone = isolation(scores, shows, [other[kept] for other in truth.others.values()], k)
    return {
        f"precision@{k}": precision,
        f"others@{k}": None if alone is None else precision - alone,
        "isolation": alone,
    }


def retrieval_metrics(truth: Truth, scores: Float[np.ndarray, " n"], k: int = 10) -> Measures:
    """All of `metrics.retrieval`, and the lexical control; None where there is nothing to count.

    That is isolation of a prompt that names no other concept, and the control's columns where all
    captions name what is shown (or no caption names what is not).
    """
    kept = ~truth.ambiguous
    alone = isolation_metrics(truth, scores, k)
    scores, shows, names = scores[kept], truth.shows[kept], truth.names[kept]
    unnamed, false = (shows & ~names).any(), (names & ~shows).any()
    return {
        f"precision@{k}": alone[f"precision@{k}"],
        "precision@50": precision_at(scores, shows, 50),
        f"recall@{k}": recall_at(scores, shows, k),
        f"capped recall@{k}": capped_recall_at(scores, shows, k),
        "average precision": average_precision(scores, shows),
        "isolation": alone["isolation"],
        f"unnamed precision@{k}": (
            shown_unnamed_precision(scores, shows, names, k) if unnamed else None
        ),
        f"falsely named@{k}": (false_caption_rate(scores, shows, names, k) if false else None),
    }


def describe_columns(k: int) -> dict[str, str]:
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
    "isolation": (isolation_metrics, ("precision@{k}", "isolation")),
    "retrieval": (retrieval_metrics, ("precision@{k}", "average precision", "isolation")),
}


@dataclass(frozen=True)
class Evaluation:
    """What is counted: a key of `EVALUATIONS`, and among how many of the highest."""

    kind: str
    k: int = 10

    @property
    def plotted(self) -> list[str]:
        """The columns that are plotted."""
        return [name.format(k=self.k) for name in EVALUATIONS[self.kind][1]]

    def measure(
        self, truths: Sequence[Truth], scores: Float[np.ndarray, "q n"]
    ) -> dict[str, list[float | None]]:
        """Each measure's values, concept by concept."""
        measure = EVALUATIONS[self.kind][0]
        values = [measure(t, row, self.k) for t, row in zip(truths, scores, strict=True)]
        return {name: [of_concept[name] for of_concept in values] for name in values[0]}

    def require_answerable(self, truths: Sequence[Truth]) -> None:
        """Refuse truths that leave nothing to count.

        Raises:
            QueryError: isolation, and no prompt names another concept.
        """
        if self.kind == "isolation" and not any(truth.others for truth in truths):
            raise QueryError(
                "no prompt of the truth names two of its concepts, so there is nothing to tell "
                "apart: give `prompt` and `others`"
            )


def evaluate(
    evaluation: Evaluation,
    methods: Mapping[Method, Index],
    truths: Sequence[Truth],
    options: QuestionOptions,
    out: Path,
    about: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Ask every method for every concept; the rows, and `results.json` of the folder `out`.

    Args:
        methods: see `method_scores.select_methods`.
        about: see `results.write_results`.

    Raises:
        HeadwaterError: matplotlib is not there.
        QueryError: see `Evaluation.require_answerable`.
        StoreError: `out` cannot be written.
    """
    require_matplotlib()
    _require_folder(out)
    evaluation.require_answerable(truths)
    scores = score_concepts(methods, truths, options, out / "scores")
    scores[MEMBERSHIP] = break_ties(membership(truths))
    values = {name: evaluation.measure(truths, rows) for name, rows in scores.items()}
    rows = _rows(methods, options.ask, values)
    columns = describe_columns(evaluation.k)
    written = write_results(
        out,
        f"{evaluation.kind.capitalize()}: {len(truths)} concepts, {len(truths[0].shows)} images",
        about,
        rows,
        [
            *(f"{column}: {text}" for column, text in columns.items() if column in rows[0]),
            'intervals: 95%, over concepts; "-": nothing to count',
        ],
        indexes=[_facts(index) for index in dict.fromkeys(methods.values())],
        concepts=[_counts(truth) for truth in truths],
        values=values,
    )
    for metric in evaluation.plotted:
        counts = [row[metric].n for row in rows if row[metric]]
        if counts:
            path = out / f"{metric.partition('@')[0].replace(' ', '-')}.png"
            plot_bars(path, rows, metric, title=f"{metric}, {max(counts)} concepts", group="asked")
    return rows, written


def describe_method(method: Method, index: Index, ask: str | None = None) -> dict[str, str | None]:
    """What a method was asked about, and of which parameters its gradients are."""
    parameters = index.recipe.parameters if uses_gradients(method) else None
    return {"asked": query_kind(method, ask), "parameters": parameters}


def _rows(
    methods: Mapping[Method, Index],
    ask: str | None,
    values: Mapping[str, Mapping[str, Sequence[float | None]]],
) -> list[dict[str, Any]]:
    facts = {method.name: describe_method(method, index, ask) for method, index in methods.items()}
    facts[MEMBERSHIP] = {"asked": "caption", "parameters": None}
    return [
        {"method": name, **facts[name], **{metric: interval(v) for metric, v in own.items()}}
        for name, own in values.items()
    ]


def _require_folder(out: Path) -> None:
    """Refuse before hours of work what could not be written after them."""
    with changing(out):
        out.mkdir(parents=True, exist_ok=True)


def _facts(index: Index) -> dict[str, Any]:
    manifest = index.manifest
    parts = {"model": manifest.model, "data": manifest.data, "recipe": manifest.recipe}
    return {"path": str(index.path), **{name: dict(part) for name, part in parts.items()}}


def _counts(truth: Truth) -> dict[str, Any]:
    return {
        "concept": truth.concept,
        "prompt": truth.prompt,
        "others": list(truth.others),
        "shows": int(truth.shows.sum()),
        "ambiguous": int(truth.ambiguous.sum()),
        "names": int(truth.names.sum()),
    }
