"""The default method, by a rule that was written before anything of this was looked at.

The rule is in docs/results.md, "A rule for the default". Candidates are asked as `headwater index`
and `headwater concept` ask where nothing else is said (8,192 features of `attn2`, of a curvature
32,768; one draw of noise at each of ten timesteps; 32 draws a question), at the dampings that the
rule names. Outputs are asked on pictures that the model makes, as the rule has it, on training
images that name the concept, which was thought of later, and on given ones, which neither a model
was trained on nor an output measured on (those of combinations that are not in training, captioned
in full).

    export OMP_NUM_THREADS=1 HEADWATER_DATA=FOLDER
    python experiments/default.py predicts    LDS of the second model (influence.py --second)
    python experiments/default.py confirms    LDS of the first model, for the pictures (scenes.py)
    python experiments/default.py draws       precision and isolation on drawings (emoji.py)
    python experiments/default.py cost        of an index and of a question, from nothing

`default_rule.py` applies the rule. Everything lies in `experiments/results/default`; indexes and
scores are not in the repository.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import emoji
import numpy as np
import torch
from common import RESULTS, about, parser
from influence_models import FIRST, SECOND, Trained
from scenes import output_of

from headwater import Concept, Denoiser, Session, TrainingSet, from_images
from headwater.attribution.scorers.content.presence import kind_of
from headwater.attribution.scorers.content.unnamed import shown
from headwater.attribution.scorers.content.with_presence import UNNAMED
from headwater.evaluation.ground_truth.concepts import Truth, read_truths
from headwater.evaluation.ground_truth.oracles import MEMBERSHIP, break_ties, membership
from headwater.evaluation.metrics.intervals import Interval, interval
from headwater.evaluation.metrics.lds import lds_difference, lds_interval, predicted_outputs
from headwater.evaluation.reporting.results import markdown, write_results
from headwater.evaluation.retraining.scene_outputs import full_caption
from headwater.evaluation.studies.method_indexes import build_indexes
from headwater.evaluation.studies.method_scores import (
    Asked,
    QuestionOptions,
    concept_question,
    sweep_dampings,
)
from headwater.evaluation.studies.retrieval import Evaluation
from headwater.methods.row import Method
from headwater.methods.table import METHODS
from headwater.queries.outputs.output import OUTPUTS, Output
from headwater.runtime.executor import Executor
from headwater.scenes.dataset import pictures

OUT = RESULTS / "default"
DAMPINGS = (0.001, 0.01, 0.1)
# The default when the rule was written, and what it is compared with side by side.
TODAY = "concept-trak-unguided"
WITH_PRESENCE = "ekfac-presence"
SEEN = "named, less twice what is seen unnamed"
# Of which the rule chooses; what it reports is of the others, and of every second concept.
HALVES = 16
CHOSEN_ON, REPORTED, ALL = "chosen-on", "reported", "all"


# In words.
PICTURES = {"made": "", "training": " on training images", "given": " on given pictures"}


@dataclass(frozen=True)
class Candidate:
    """A method, what it is asked, a damping (None for its own), and on which pictures."""

    method: str
    ask: str = "slider"
    damping: float | None = None
    pictures: str = "made"

    @property
    def asked(self) -> str:
        """Without the damping."""
        words = [self.method] if self.ask == "slider" else [self.method, self.ask]
        return ", ".join(words) + PICTURES[self.pictures]

    def __str__(self) -> str:
        return self.asked + (f", damping {self.damping:g}" if self.damping else "")


INFLUENCE = [
    Candidate(method, "contribution", ratio, pictures)
    for pictures in ("made", "training")
    for method in ("ekfac", WITH_PRESENCE)
    for ratio in DAMPINGS
]
GIVEN = [Candidate(m, "contribution", DAMPINGS[0], "given") for m in ("ekfac", WITH_PRESENCE)]
CANDIDATES = (
    *(Candidate(m) for m in ("concept-trak-unguided", "concept-trak", "concept-d-trak")),
    *INFLUENCE,
    Candidate("presence"),
)


def main() -> None:
    stages = {"predicts": predicts, "confirms": confirms, "draws": draws, "cost": cost}
    given = parser(__doc__, *stages).parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    stages[given.stage](given)


# --- the candidates' answers ----------------------------------------------------------------------


def scores_of(
    model: Denoiser,
    data: TrainingSet,
    truths: Sequence[Truth],
    place: Path,
    candidates: Sequence[Candidate] = CANDIDATES,
) -> dict[Candidate, np.ndarray]:
    """What each candidate scores every image for every concept, [q, n]."""
    found = {}
    for one in {each.asked: each for each in candidates}.values():
        method, own = one.method, [each for each in candidates if each.asked == one.asked]
        # what has no features of its own (presence) keeps what it finds where WITH_PRESENCE does
        built = build_indexes(model, data, place / "indexes", [WITH_PRESENCE, method])
        indexes = {METHODS[method]: built[METHODS[method]]}
        questions = partial(asked, truths, one)
        swept = sweep_dampings(indexes, questions, place / "scores", [c.damping for c in own])
        found |= {each: swept[each.damping][method] for each in own}
    return found


def seen_alone(
    model: Denoiser, data: TrainingSet, truths: Sequence[Truth], place: Path
) -> np.ndarray:
    """What `WITH_PRESENCE` adds to the influence, without it, [q, n]."""
    (index,) = build_indexes(model, data, place / "indexes", [WITH_PRESENCE]).values()
    session, rows = Session(index), []
    for truth in truths:
        kind = kind_of(session, Concept(truth.prompt, truth.concept))
        found = shown(session, kind, truth.concept)
        rows.append((found.named.double() + UNNAMED * found.unnamed.double()).numpy())
    return np.stack(rows)


def asked(truths: Sequence[Truth], candidate: Candidate, method: Method) -> list[Asked]:
    """The questions of a method, as a candidate has them."""
    options = QuestionOptions(ask=candidate.ask)
    questions = [concept_question(method, truth, options) for truth in truths]
    given, own = candidate.pictures == "given", candidate.pictures
    return [
        replace(each, pictures=others(truth.concept) if given else own)
        if isinstance(each, Output)
        else each
        for each, truth in zip(questions, truths, strict=True)
    ]


@cache
def others(concept: str) -> TrainingSet:
    """Pictures of a concept that no model here was trained on, nor an output measured on."""
    shown = [picture for picture in pictures("unseen") if picture.shows(concept)]
    return from_images([picture.draw() for picture in shown], list(map(full_caption, shown)))


# --- what the rule measures -----------------------------------------------------------------------


def predicts(given: argparse.Namespace) -> None:
    """LDS on both outputs of the halves of a model that had no part in the rule."""
    predicted(given, SECOND, "predicts", (*CANDIDATES, *GIVEN))


def confirms(given: argparse.Namespace) -> None:
    """The same of the model on which the pictures of a question were not looked at."""
    predicted(given, FIRST, "confirms", (*INFLUENCE, *GIVEN))


def predicted(
    given: argparse.Namespace, study: Trained, stage: str, candidates: Sequence[Candidate]
) -> None:
    """LDS on both outputs of a model's halves."""
    measured, data = study.trained(Executor("local", 1), given.device), study.data
    model = Denoiser.load(study.folder / "models" / study.plan.full.name, given.device)
    truths, place = read_truths("scenes", data.samples), study.indexes.parent
    scores: dict[Any, np.ndarray] = dict(scores_of(model, data, truths, place, candidates))
    scores[SEEN] = seen_alone(model, data, truths, place)
    named = membership(truths)
    outputs = {
        name: np.stack([
            np.asarray(output_of(each, name=name, measure=study.measure), float)
            for each in measured[1 : study.plan.subsets + 1]
        ])
        for name in OUTPUTS
    }  # fmt: skip
    halves = study.plan.chosen
    for part, rows, of in parts(halves, len(truths)):
        words = predicted_outputs(named, halves)[rows][:, of]
        table = []
        for candidate, own in scores.items():
            row: dict[str, Any] = {"candidate": str(candidate)}
            for output, values in outputs.items():
                true, predicted = values[rows][:, of], predicted_outputs(own, halves)[rows][:, of]
                row[f"LDS, {output}"] = Interval(*lds_interval(true, predicted))
                above = Interval(*lds_difference(true, predicted, words))
                row[f"{output}, above {MEMBERSHIP!r}"] = above
            table.append(row)
        captions = {
            f"LDS, {output}": Interval(*lds_interval(values[rows][:, of], words))
            for output, values in outputs.items()
        }
        table.append({"candidate": MEMBERSHIP, **captions})
        title = f"What candidates predict, {part}: {len(of)} concepts, {len(words)} halves"
        keep(given, f"{stage}-{part}", title, table)


def parts(halves: np.ndarray, concepts: int) -> list[tuple[str, slice, np.ndarray]]:
    """Where the rule chooses and where it reports: halves, and concepts; and all of them."""
    every = np.arange(concepts)
    return [
        (CHOSEN_ON, slice(HALVES), every[::2]),
        (REPORTED, slice(HALVES, len(halves)), every[1::2]),
        (ALL, slice(None), every),
    ]


def draws(given: argparse.Namespace) -> None:
    """Precision and isolation on drawings by four designers."""
    out = RESULTS / "emoji"
    data = emoji.drawings(False)
    model = emoji.trained(out, data, given)
    truths = read_truths(str(emoji.truth_of(data, out)), data.samples)
    scores: dict[Any, np.ndarray] = dict(scores_of(model, data, truths, out / "default"))
    today = next(each for each in CANDIDATES if each.method == TODAY)
    scores[MEMBERSHIP] = break_ties(membership(truths))
    values = {name: Evaluation("isolation").measure(truths, rows) for name, rows in scores.items()}
    for part, _, of in parts(np.empty(0), len(truths)):
        table = []
        for name, own in values.items():
            kept = {metric: [every[i] for i in of] for metric, every in own.items()}
            before = [values[today]["precision@10"][i] for i in of]
            pairs = zip(kept["precision@10"], before, strict=True)
            table.append({
                "candidate": str(name),
                "precision@10": interval(kept["precision@10"]),
                "precision, above today's": interval(
                    [a - b for a, b in pairs if a is not None and b is not None]
                ),
                "isolation": interval(kept["isolation"]),
            })  # fmt: skip
        title = f"What candidates find on drawings, {part}: {len(of)} concepts"
        keep(given, f"draws-{part}", title, table)


def cost(given: argparse.Namespace) -> None:
    """CPU seconds of an index of the rule's size, a picture, and of questions, from nothing."""
    model = Denoiser.load("scenes", given.device)
    data = SECOND.data
    truth, second = read_truths("scenes", data.samples)[:2]  # two colours
    with tempfile.TemporaryDirectory() as folder:  # what a process does once is nobody's cost
        (index,) = build_indexes(model, data.first(8), Path(folder), [TODAY]).values()
        Session(index).attribute(concept_question(METHODS[TODAY], truth, QuestionOptions()))
    table = []
    candidates = list({each.asked: each for each in CANDIDATES}.values())
    # what the rule compares side by side, one after the other
    methods = sorted({one.method for one in candidates}, key=(TODAY, WITH_PRESENCE).count)
    for method in reversed(methods):
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            (index,) = build_indexes(model, data, Path(folder) / "built", [method]).values()
            built = (time.process_time() - started) / len(data)
            for each in (one for one in candidates if one.method == method):
                own = shutil.copytree(index.path, Path(folder) / each.pictures)  # nothing asked yet
                session = Session.open(own, denoiser=model, training_set=data)
                seconds = []
                for question in asked([truth, second], each, METHODS[method]):
                    started = time.process_time()
                    session.attribute(question, method=method)
                    seconds.append(time.process_time() - started)
                table.append({
                    "candidate": each.asked,
                    "index, CPU s a picture": built,
                    "question, CPU s": seconds[0],
                    "a second of its kind, CPU s": seconds[1],
                })  # fmt: skip
    keep(given, "cost", f"What candidates cost: {len(data):,} pictures, one thread", table)


def keep(
    given: argparse.Namespace, name: str, title: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """A table, on disk and on the screen."""
    notes = ["candidates as they are asked where nothing else is said, but for the damping"]
    write_results(OUT / name, title, about(given), rows, notes)
    print(markdown(rows), OUT / name / "table.md", sep="\n")


if __name__ == "__main__":
    main()
