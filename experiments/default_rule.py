"""The rule for the default method, applied to what was measured.

The rule is in docs/results.md, "A rule for the default"; it was written before anything of this was
looked at. `default.py` measures all but the drops, which are of `scenes.py influence`.

    python experiments/default_rule.py

It is written to `experiments/results/default/choice`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from common import RESULTS, about
from default import CANDIDATES, CHOSEN_ON, OUT, TODAY
from influence_models import SECOND
from scipy.stats import rankdata

from headwater.evaluation.ground_truth.concepts import read_truths
from headwater.evaluation.ground_truth.oracles import MEMBERSHIP
from headwater.evaluation.reporting.results import markdown, write_results

# The highest cost of an index, in indexes by today's default, that is admitted.
AFFORDED = 2.0
# Of the drop: how many images are taken out.
TAKEN_OUT = 200
# Where the mean ranks of the first two differ by less, the cheaper one is taken.
A_TIE = 0.5
MEASURES = ("LDS, contribution", "LDS, loss", "drop", "precision@10", "isolation")


def main() -> None:
    """Which candidates the rule admits, how they rank, and which it takes."""
    given = argparse.ArgumentParser(description=__doc__).parse_args()
    predicted, drawn = rows_of(f"predicts-{CHOSEN_ON}"), rows_of(f"draws-{CHOSEN_ON}")
    costs, drops = rows_of("cost"), drops_of_chosen()
    if missing := {each.asked for each in CANDIDATES} - costs.keys():
        sys.exit(f"nothing is known of what {min(missing)} costs: run `cost` to its end")
    today = costs[TODAY]["index, CPU s a picture"]
    table = []
    for candidate in CANDIDATES:
        name, method = str(candidate), candidate.method
        cost = costs[candidate.asked]
        above = predicted[name][f"contribution, above {MEMBERSHIP!r}"]
        precision = drawn[name]["precision, above today's"]
        dear = cost["index, CPU s a picture"] / today
        admitted = above["low"] > 0 and precision["high"] >= 0 and dear <= AFFORDED
        table.append({
            "candidate": name,
            "predicts more than captions": yes(above["low"] > 0),
            "precision not below": yes(precision["high"] >= 0),
            "index, times today's": dear,
            "admitted": yes(admitted),
            "LDS, contribution": predicted[name]["LDS, contribution"]["mean"],
            "LDS, loss": predicted[name]["LDS, loss"]["mean"],
            "drop": drops.get(method),
            "precision@10": drawn[name]["precision@10"]["mean"],
            "isolation": drawn[name]["isolation"]["mean"],
            "question, CPU s": cost["question, CPU s"],
        })  # fmt: skip
    best = [row for row in table if row["admitted"] == "yes"]
    methods = {row["candidate"].split(",")[0] for row in best}
    # a method has one drop for all its dampings, which ranks them alike
    if len(methods) > 1 and (missing := sorted(methods - drops.keys())):
        sys.exit(f"nothing was taken out by {missing[0]}: `scenes.py influence` comes first")
    for row in table:
        row["mean rank"] = mean_rank(row, best) if row in best else None
    taken = cheapest_of_the_best(best)
    note = (
        f"taken: {taken}; drop: without {TAKEN_OUT}, of the same method at its own damping, asked "
        "as `scenes.py influence` does (every number kept, four draws an image, 160 a question); "
        "it may be missing where all admitted are one method, which it would rank alike"
    )
    write_results(OUT / "choice", "The rule for the default, applied", about(given), table, [note])
    print(markdown(table), note, sep="\n")


def rows_of(name: str) -> dict[str, dict[str, Any]]:
    """The rows of a table that was made before, by what they are of."""
    path = OUT / name / "results.json"
    if not path.exists():
        sys.exit(f"there is no {path}: run `{name.split('-')[0]}` first")
    return {row["candidate"]: row for row in json.loads(path.read_text())["rows"]}


def drops_of_chosen() -> dict[str, float]:
    """Of each method the mean drop without its highest images, of the concepts to choose on."""
    path = RESULTS / "scenes" / "influence" / "concepts" / "results.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [truth.concept for truth in read_truths("scenes", SECOND.data.samples)][::2]
    drops: dict[str, list[float]] = {}
    for row in rows:
        if row["concept"] in kept and row["removed"] == TAKEN_OUT:
            drops.setdefault(row["method"], []).append(row["drop"]["mean"])
    return {method: float(np.mean(values)) for method, values in drops.items()}


def mean_rank(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float:
    """Of a candidate among those admitted, over the five measures; 1 is the best, ties share."""
    known = [measure for measure in MEASURES if measure != "drop" or row["drop"] is not None]
    ranks = [rankdata([-other[measure] for other in rows]) for measure in known]
    return float(np.mean([rank[rows.index(row)] for rank in ranks]))


def cheapest_of_the_best(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best mean rank, or of the first two the cheaper one; today's default if there is none."""
    first = sorted(rows, key=lambda row: row["mean rank"])[:2]
    if not first:
        return f"{TODAY}, as before: none is admitted"
    if len(first) == 2 and first[1]["mean rank"] - first[0]["mean rank"] < A_TIE:
        first.sort(key=lambda row: (row["index, times today's"], row["question, CPU s"]))
    return first[0]["candidate"]


def yes(true: bool) -> str:
    return "yes" if true else "no"


if __name__ == "__main__":
    main()
