"""The scenes: does the model itself see what an image shows, whatever its caption says?

The bundled model; its first 1,000 pictures, a fifth of them with a caption in which one word is
false. For each of the 30 concepts, presence with the alternatives that captions have in its place,
with those of its kind given, and with none, beside what captions say: retrieval, precision among
images whose caption does not name what they show, and how many of the highest are named but do not
show it. A second table says how well the false captions themselves are found.

    export OMP_NUM_THREADS=1
    python experiments/presence.py tables

Everything lies in `experiments/results/presence`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from common import RESULTS, about, parser

from headwater import Concept, Denoiser, Session, build_index, load_dataset
from headwater.attribution.scorers.presence import kind_of, prepare, presence
from headwater.data.training_set import Sample
from headwater.evaluation.ground_truth.concepts import Truth, read_truths
from headwater.evaluation.ground_truth.label_noise import plant_label_noise
from headwater.evaluation.ground_truth.oracles import MEMBERSHIP, break_ties, membership
from headwater.evaluation.metrics.intervals import interval
from headwater.evaluation.metrics.retrieval import average_precision, precision_at
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.evaluation.studies.retrieval import Evaluation, describe_columns
from headwater.scenes.vocabulary import ATTRIBUTES, attribute_of

OUT = RESULTS / "presence"
FALSE, IMAGES = 0.2, 1_000
ASKED = ("mined", "given", "none")


def main() -> None:
    command = parser(__doc__, "tables")
    command.add_argument("--alternatives", nargs="+", choices=ASKED, default=ASKED)
    given = command.parse_args()
    torch.set_num_threads(1)
    tables(given)


def tables(given: argparse.Namespace) -> None:
    """Both tables."""
    true = load_dataset("scenes").first(IMAGES)
    data = plant_label_noise(true, FALSE)
    model = Denoiser.load("scenes", given.device)
    session = Session(build_index(model, data, OUT / "indexes" / "pixels", method="pixel-dot"))
    truths = read_truths("scenes", data.samples)
    scores = {MEMBERSHIP: break_ties(membership(truths))}
    for kind in given.alternatives:
        queries = [question(truth, kind) for truth in truths]
        start = time.process_time()
        scores[f"presence, {kind}"] = ask(session, queries)
        print(f"{kind}: {time.process_time() - start:.0f} CPU seconds")
    evaluation = Evaluation("retrieval")
    values = {name: evaluation.measure(truths, rows) for name, rows in scores.items()}
    lies = {
        name: planted(true.samples, data.samples, truths, rows)
        for name, rows in scores.items()
        if name != MEMBERSHIP
    }
    write(values, lies, given)


def question(truth: Truth, kind: str) -> Concept:
    """The concept, with its alternatives."""
    values = ATTRIBUTES[attribute_of(truth.concept)]
    others = tuple(value for value in values if value != truth.concept)
    alternatives = {"mined": None, "given": others, "none": ()}[kind]
    return Concept(truth.prompt, truth.concept, alternatives=alternatives)


def ask(session: Session, queries: Sequence[Concept]) -> np.ndarray:
    """The presence of each concept in each image."""
    prepare(session, [(kind_of(session, query), query.concept) for query in queries])
    return np.stack([presence(session, query).double().numpy() for query in queries])


def planted(
    true: Sequence[Sample], said: Sequence[Sample], truths: Sequence[Truth], scores: np.ndarray
) -> dict[str, list[float]]:
    """How well false captions are found by what the model sees least of all that they name."""
    names = np.stack([truth.names for truth in truths])
    doubt = np.where(names, -scores, -np.inf).max(0)
    false = np.array([a.caption != b.caption for a, b in zip(true, said, strict=True)])
    asked = names.any(0)
    doubt, false = doubt[asked], false[asked]
    resampled = np.random.default_rng(0).integers(len(false), size=(1_000, len(false)))
    return {
        "average precision": [
            average_precision(doubt, false),
            *np.quantile(
                [average_precision(doubt[r], false[r]) for r in resampled], (0.025, 0.975)
            ),
        ],
        "precision@100": [precision_at(doubt, false, 100)],
    }


def write(
    values: Mapping[str, Mapping[str, Sequence[float | None]]],
    lies: Mapping[str, Mapping[str, Sequence[float]]],
    given: argparse.Namespace,
) -> None:
    """The tables, on disk and on the screen."""
    columns = describe_columns(10)
    rows: list[dict[str, Any]] = [
        {"method": name, **{metric: interval(each) for metric, each in own.items()}}
        for name, own in values.items()
    ]
    notes = [f"{column}: {text}" for column, text in columns.items() if column in rows[0]]
    title = f"Presence: {len(next(iter(values.values()))['isolation'])} concepts, {IMAGES} images"
    write_results(OUT, title, about(given), rows, notes, values=values)
    found = [
        {
            "method": name,
            **{metric: " ".join(f"{number:.3f}" for number in own) for metric, own in each.items()},
        }
        for name, each in lies.items()
    ]
    note = "average precision of planted lies among captions, with its 95% interval over images"
    write_results(OUT / "lies", f"{FALSE:.0%} false captions, found", about(given), found, [note])
    print(markdown(rows), markdown(found), OUT / "table.md", sep="\n")


if __name__ == "__main__":
    main()
