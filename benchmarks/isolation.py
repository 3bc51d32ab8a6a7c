"""Can an answer tell which concept of a prompt was asked for?

Of `concept-trak-unguided`: for each of the scenes' 30 concepts one random prompt that names all
four attributes, once of a combination that the training set shows and once of one that it never
shows. Truth is what a picture shows, whatever its caption says. Prints precision@10, isolation and
average precision for the default contexts and for the paper's single prompt; fails below the
bounds. Of other methods `headwater evaluate isolation` says the same.

    python benchmarks/isolation.py [--index scenes-index] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import sys

import numpy as np

from headwater import Concept, Denoiser, Index, build_index, load_dataset
from headwater.evaluation.metrics.intervals import mean_interval
from headwater.evaluation.metrics.retrieval import average_precision, isolation, precision_at
from headwater.scenes.dataset import Picture, describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES

BOUNDS = {"precision@10": 0.97, "isolation": 0.75}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", default="scenes-index", help="built there if it is missing")
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    method = "concept-trak-unguided"
    data = load_dataset("scenes")
    index = build_index(Denoiser.load(given.model), data, given.index, method=method)
    shown = pictures("train")
    rows = [
        {"prompts": split, "context": context, **measure(index, shown, split, context, given.seed)}
        for context in ("auto", "prompt")
        for split in ("train", "unseen")
    ]
    failed = [
        f"{row['prompts']} prompts: {name} {row[name]['mean']:.3f} < {bound}"
        for row in rows
        if row["context"] == "auto"
        for name, bound in BOUNDS.items()
        if row[name]["mean"] < bound
    ]
    print(json.dumps({"rows": rows, "failed": failed}) if given.json else table(rows, failed))
    return 1 if failed else 0


def measure(index: Index, shown: list[Picture], split: str, context: str, seed: int) -> dict:
    """Mean and 95% interval over the 30 concepts of the three measures."""
    measured = []
    for word in [value for values in ATTRIBUTES.values() for value in values]:
        scene = random.Random(f"{seed}|{split}|{word}").choice(
            [p.scene for p in pictures(split) if p.shows(word)]
        )
        said = scene.attributes
        query = Concept(describe(**said), concept=word, context=context, seed=seed)
        scores = index.attribute(query).scores
        truth = {w: np.array([p.shows(w) for p in shown]) for w in said.values()}
        others = [truth[other] for other in said.values() if other != word]
        measured.append({
            "precision@10": precision_at(scores, truth[word]),
            "isolation": isolation(scores, truth[word], others),
            "average precision": average_precision(scores, truth[word]),
        })  # fmt: skip
    return {
        name: dict(
            zip(("mean", "low", "high"), mean_interval([m[name] for m in measured]), strict=True)
        )
        for name in measured[0]
    }


def table(rows: list[dict], failed: list[str]) -> str:
    names = ("precision@10", "isolation", "average precision")
    lines = [f"{'prompts':<9}{'context':<9}" + "".join(f"{name:<22}" for name in names)]
    for row in rows:
        cells = [f"{row[n]['mean']:.3f} [{row[n]['low']:.3f}, {row[n]['high']:.3f}]" for n in names]
        lines.append(
            f"{'seen' if row['prompts'] == 'train' else 'unseen':<9}{row['context']:<9}"
            + "".join(f"{cell:<22}" for cell in cells)
        )
    return "\n".join([*lines, *(f"FAILED {line}" for line in failed)])


if __name__ == "__main__":
    sys.exit(main())
