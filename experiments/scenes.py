"""The scenes: do scores predict what models learn without some of the pictures?

Reduced, so that two cores carry it: the first 1,000 training pictures; a UNet of two fifths of the
bundled one's parameters, trained from random weights for 1,500 steps, with the bundled text
encoder and autoencoder as they are; 32 random halves, 6 of them trained with a second seed too.
`--full` is 64 halves of the bundled architecture with its own training, for a GPU.

`concept-d-trak` and `caption-d-trak` were thought of after a look at the first 16 halves, and the
search chooses on them; the others had no part in it. Tables have a column of these alone.

    export OMP_NUM_THREADS=1
    python experiments/scenes.py models [--jobs 2]     train and measure; goes on where it stopped
    python experiments/scenes.py tables                attribute the full model, write the tables
    python experiments/scenes.py search                what asked of images, what of concepts?
    python experiments/scenes.py removed [--jobs 2]    take out what methods name, train again
    python experiments/scenes.py confirmed [--jobs 2]  the same for other concepts
    python experiments/scenes.py together [--jobs 2]   the same for both, in one table
    python experiments/scenes.py ceiling [--jobs 2]    the same by what images show, for both
    python experiments/scenes.py windows [--jobs 2]    at which steps is that felt?
    python experiments/scenes.py influence [--jobs 2]  200 by the default method, for thirteen

`--halves` and `--again` take fewer than there are to be. `removed` takes the 25, 50, 100 and 200
highest images of each method out, for the object, the two colours and the two styles that the full
model draws most surely; `confirmed` 100, for all others that it draws with a rate of a third or
more, which had no part in what `removed` found; `together` 100, for all of these; `ceiling` 200,
for all of these, those first whose caption names the concept, and those first that show it.
`influence` takes out 200, for the first five and every second of the others, by the default method
(`--methods ekfac presence` by its two parts), beside captions and what shows it.
`windows` takes out 100, those first whose caption names the concept, or any, and lets the model
without them make a quarter of a picture's steps. `--remove`, `--concepts` and `--methods` take
others, whose tables are in the stage's folder `chosen`. Everything lies in
`experiments/results/scenes`; what was measured of each model is kept in the repository.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from common import about, add_workers, executor_of, parser
from scenes_removed import REMOVING, removed
from scenes_search import ALL, PAIRED, SEARCHED
from scenes_sizes import config_of, data_of, folder

from headwater import Denoiser
from headwater.attribution.scores import inverts_kernel
from headwater.evaluation.ground_truth.concepts import Truth, read_truths
from headwater.evaluation.ground_truth.oracles import MEMBERSHIP, membership
from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.metrics.lds import (
    choose_on,
    lds_difference,
    lds_interval,
    predicted_outputs,
)
from headwater.evaluation.metrics.retrieval import precision_at
from headwater.evaluation.reporting.plots import plot_bars
from headwater.evaluation.reporting.results import write_results
from headwater.evaluation.retraining import scene_outputs
from headwater.evaluation.retraining.retrain import (
    Measure,
    Measured,
    Study,
    retrain,
    study_of,
)
from headwater.evaluation.studies.method_indexes import build_indexes
from headwater.evaluation.studies.method_scores import (
    QuestionOptions,
    concept_question,
    score_concepts,
    sweep_dampings,
)
from headwater.evaluation.studies.subset_plan import SubsetPlan, collect, lds_rows
from headwater.index.config import DEFAULT_DIM, DEFAULT_PROJECTION

METHODS = (
    "concept-trak-unguided",
    "concept-trak-a",
    "concept-trak-b",
    "concept-trak-c-unguided",
    "trak",
    "d-trak",
    "das",
    "concept-d-trak",
    "caption-d-trak",
    "pixel-cosine",
    "random",
)
DAMPINGS = (1e-2, 1e-1, 1.0, 10.0)
SEEN = 16  # halves that methods were thought of with
FEWEST = 4  # halves that say anything
# Method, parameters, projection, damping, whether signs count.
Key = tuple[str, str, str, float, str]


def main() -> None:
    command = parser(__doc__, "models", "tables", "search", *REMOVING)
    add_workers(command)
    command.add_argument("--halves", type=int)
    command.add_argument("--again", type=int)
    command.add_argument("--parameters", default="attn2")
    command.add_argument("--remove", nargs="+", type=int, help="how many images, each")
    command.add_argument("--concepts", nargs="+", choices=scene_outputs.CONCEPTS)
    command.add_argument("--methods", nargs="+", help="that name what is removed, fewer of them")
    given = command.parse_args()
    if given.stage != "tables" and given.parameters != "attn2":
        command.error("--parameters is for tables alone")
    if given.stage not in REMOVING and (given.remove or given.concepts or given.methods):
        stages = ", ".join(REMOVING)
        command.error(f"--remove, --concepts and --methods are for {stages} alone")
    torch.set_num_threads(1)
    plan = plan_of(given.full, given.halves, given.again)
    study, executor = study_of_scenes(given.full, given.device), executor_of(given)
    if given.stage in REMOVING:
        # what it draws tells which concepts; its weights are not asked for
        (full,) = retrain(study, [replace(plan.full, kept=False)], executor)
        removed(given.full, full, given)
        return
    measured = retrain(study, plan.tasks(), executor)
    if given.stage == "tables":
        tables(given.full, plan, measured, given)
    if given.stage == "search":
        search(given.full, plan, measured, given)


def plan_of(full: bool, halves: int | None, again: int | None) -> SubsetPlan:
    most = (64, 16) if full else (32, 6)
    return SubsetPlan(
        len(data_of(full)),
        most[0] if halves is None else halves,
        min(most[1] if again is None else again, most[0] if halves is None else halves),
    )


def study_of_scenes(full: bool, device: str) -> Study:
    """Models of the scenes, of which losses, contributions and rates are measured."""
    data, encoder = data_of(full), Denoiser.load("scenes", "cpu")
    out, scenes = folder(full), scene_outputs.MEASURE
    return study_of(out, config_of(full), data, encoder, Measure(scenes, scenes.facts()), device)


def tables(
    full: bool, plan: SubsetPlan, measured: list[Measured], given: argparse.Namespace
) -> None:
    """Attribute the model of everything for each concept; a table of LDS for each output."""
    data, out = data_of(full), folder(full)
    truths = read_truths("scenes", data.samples)
    model = Denoiser.load(out / "models" / plan.full.name, given.device)
    asked = build_indexes(model, data, out / "indexes", METHODS, parameters=given.parameters)
    options = QuestionOptions(given.draws, guidance=3.0)
    answers = score_concepts(asked, truths, options, out / "scores")
    answers[MEMBERSHIP] = membership(truths)
    ends = {
        name: {
            "highest 10 show it": mean_precision(each, truths),
            "lowest 10 show it": mean_precision(-each, truths),
            "positive if shown": positive(each, [truth.shows for truth in truths]),
            "positive if not": positive(each, [~truth.shows for truth in truths]),
        }
        for name, each in answers.items()
    }
    stated, unseen = about(given, halves=plan.subsets, again=plan.again), unseen_of(plan)
    for output in ("loss", "contribution", "rate"):
        found = collect(plan, measured, partial(output_of, name=output))
        rows = lds_rows(plan, found, answers, MEMBERSHIP, ends)
        words = predicted_outputs(answers[MEMBERSHIP], plan.chosen)[unseen]
        for row in rows[:-1] if len(unseen) >= FEWEST else ():  # not of the ceiling
            true = found.outputs[unseen]
            predicted = predicted_outputs(answers[row["method"]], plan.chosen)[unseen]
            row[f"LDS, halves {SEEN + 1} on"] = Interval(*lds_interval(true, predicted))
            if row["method"] != MEMBERSHIP:
                above = Interval(*lds_difference(true, predicted, words))
                row[f"above {MEMBERSHIP!r}, halves {SEEN + 1} on"] = above
        title = f"Concept LDS on the scenes, {output}: {plan.subsets} halves, {given.parameters}"
        path = out / f"{output}-{given.parameters}"
        write_results(path, title, stated, rows)
        plot_bars(path / "lds.png", rows, "LDS", title=title)
        print((path / "table.md").read_text())


def unseen_of(plan: SubsetPlan) -> np.ndarray:
    """The halves that had no part in thinking of methods, or in choosing among them."""
    return np.arange(SEEN, plan.subsets)


def mean_precision(found: np.ndarray, truths: Sequence[Truth]) -> float:
    """Precision@10, mean over the concepts."""
    each = [precision_at(row, t.shows) for row, t in zip(found, truths, strict=True)]
    return float(np.mean(each))


def positive(found: np.ndarray, rows: Sequence[np.ndarray]) -> float:
    """The share of these images with a score above zero, mean over the concepts."""
    return float(np.mean([(each[of] > 0).mean() for each, of in zip(found, rows, strict=True)]))


def search(
    full: bool, plan: SubsetPlan, measured: list[Measured], given: argparse.Namespace
) -> None:
    """Train sides with concept queries: which, by what projection and damping, predicts best?

    Chosen on the first `SEEN` halves, reported on the others: each row's damping and whether
    the scores' signs count (a concept's own pictures lie at both ends), and in the row `best` all
    of it.
    """
    if len(unseen_of(plan)) < FEWEST:
        sys.exit(f"a search needs {SEEN + FEWEST} halves at least")
    data, out = data_of(full), folder(full)
    truths = read_truths("scenes", data.samples)
    model = Denoiser.load(out / "models" / plan.full.name, given.device)
    ALL.update({method.name: method for method in PAIRED})
    answers: dict[Key, np.ndarray] = {}
    options = QuestionOptions(given.draws, guidance=3.0)
    for parameters, more, names in SEARCHED:
        asked = build_indexes(model, data, out / "indexes", names, parameters=parameters, **more)
        found = sweep_dampings(
            asked,
            lambda method: [concept_question(method, truth, options) for truth in truths],
            out / "scores",
            DAMPINGS,
        )
        projection = " ".join(map(str, more.values())) or "-"
        for ratio in DAMPINGS:
            for name, each in found[ratio].items():
                answers[name, parameters, projection, ratio, "signed"] = each
                answers[name, parameters, projection, ratio, "strength"] = np.abs(each)
    for output in ("loss", "contribution", "rate"):
        true = collect(plan, measured, partial(output_of, name=output)).outputs
        predicted = {key: predicted_outputs(each, plan.chosen) for key, each in answers.items()}
        words = predicted_outputs(membership(truths), plan.chosen)
        rows = []
        for which in dict.fromkeys(key[:3] for key in predicted):
            own = {key: p for key, p in predicted.items() if key[:3] == which}
            rows.append(held_row(plan, true, own, words, which[0]))
        rows.append(held_row(plan, true, predicted, words, "best"))
        rest = unseen_of(plan)
        rows.append({"method": MEMBERSHIP, "LDS": Interval(*lds_interval(true[rest], words[rest]))})
        path = out / f"{output}-search"
        title = f"Concept LDS on the scenes, {output}: a search, reported on {len(rest)} halves"
        notes = [
            f"chosen on the first {SEEN} halves, with which two of the methods were thought of; "
            "what was searched was laid out after a smaller search had been reported on the others",
            '"train, query": what is asked of training images, and of a concept; a kernel between',
            f'projection: "-": {DEFAULT_PROJECTION}, of the gradients to {DEFAULT_DIM:,} features; '
            "1024: to so many",
        ]
        write_results(path, title, about(given), rows, notes)
        print((path / "table.md").read_text())


def held_row(
    plan: SubsetPlan,
    true: np.ndarray,
    predicted: Mapping[Key, np.ndarray],
    words: np.ndarray,
    name: str,
) -> dict[str, object]:
    """The best on the first `SEEN` halves, and what it is worth on the others."""
    rest = unseen_of(plan)
    key = choose_on(np.arange(SEEN), true, predicted)
    own = predicted[key][rest]
    return {
        "method": name if name != "best" else f"best: {key[0]}",
        "parameters": key[1],
        "projection": key[2],
        "damping": None if not inverts_kernel(ALL[key[0]].rule) else key[3],
        "scores": key[4],
        "LDS": Interval(*lds_interval(true[rest], own)),
        f"above {MEMBERSHIP!r}": Interval(*lds_difference(true[rest], own, words[rest])),
    }


def output_of(measured: Measured, name: str, **which: Any) -> np.ndarray:
    return scene_outputs.by_concept(measured, **which)[name]


if __name__ == "__main__":
    main()
