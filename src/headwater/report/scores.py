"""`scores.parquet`: a number for every training image, and what it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headwater.attribution.answer.result import Attribution
from headwater.index.index import Index
from headwater.index.samples import shown_columns, tables_of
from headwater.storage.files import arrow_array, sha256_of, write_tables

FILE = "scores.parquet"


def write_scores(folder: Path, index: Index, columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write columns of numbers beside what each row of an index is of; the file's sha256 by name.

    Some rows at a time are in memory.
    """

    def tables() -> Iterator[pa.Table]:
        start = 0
        for samples in tables_of(index.samples):
            own = slice(start, start + len(samples))
            numbers = {name: arrow_array(column[own]) for name, column in columns.items()}
            shown = shown_columns(samples)
            yield pa.table({"id": shown.pop("id"), **numbers, **shown})
            start += len(samples)

    write_tables(folder / FILE, tables())
    return {FILE: sha256_of(folder / FILE)}


def score_columns(attribution: Attribution) -> dict[str, np.ndarray]:
    """The numbers of one answer: scores, ranks from 1 on, standard errors, candidates, a sweep."""
    sure = attribution.certainty
    return {
        "score": attribution.scores,
        "rank": np.argsort(attribution.order()) + 1,
        **({} if sure is None else {"standard_error": sure.errors}),
        **candidate_column(attribution),
        **{f"score at damping {r}": scores for r, scores in attribution.sweep.items()},
    }


def candidate_column(attribution: Attribution) -> dict[str, Any]:
    """Which images competed, where not all did."""
    if attribution.among is None:
        return {}
    rows = range(len(attribution.scores))
    return {"candidate": np.isin(rows, attribution.competing)}
