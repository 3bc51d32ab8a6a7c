"""Influence: do answers predict what models put out that were trained on half of the pictures?

The halves and outputs of `scenes.py` (its `models` comes first), but another question: not which
way a concept lies (the slider), but the output itself, the loss on pictures of the concept or what
the concept's words gain there, asked in the metric of the model's curvature. Pictures are those
that the outputs were measured on, training images, or such as the model makes itself.

    export OMP_NUM_THREADS=1
    python experiments/influence.py tables [--methods ekfac trak gradient-dot kfac]
    python experiments/influence.py sizes        what a projection and the draws of an index cost
    python experiments/influence.py ensembles    answers of several seeds' models, averaged
    python experiments/influence.py models --second    train what had no part in any choice
    python experiments/influence.py tables --second    the same questions of that

`--second` is another model and its halves: the other 1,000 training pictures, other random halves,
other seeds of weights and batches. Rows are weighed as the models' training weighed timesteps
(`shapes-first`), four draws of noise at each of ten timesteps, and keep every number (`--projection
identity`). Everything lies in `experiments/results/influence`, but for the models.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, about, add_workers, executor_of, parser
from influence_models import FIRST, SECOND, Trained
from scenes import SEEN, output_of, unseen_of

from headwater import (
    Denoiser,
    Session,
    TrainingSet,
    build_index,
    from_images,
)
from headwater.evaluation.ground_truth.concepts import Truth, read_truths
from headwater.evaluation.ground_truth.oracles import MEMBERSHIP, membership
from headwater.evaluation.metrics.intervals import Interval
from headwater.evaluation.metrics.lds import lds_difference, lds_interval, predicted_outputs
from headwater.evaluation.reporting.results import write_results
from headwater.evaluation.retraining import scene_outputs
from headwater.evaluation.retraining.retrain import Measured
from headwater.evaluation.retraining.scene_outputs import SceneMeasure
from headwater.evaluation.studies.subset_plan import collect, lds_rows
from headwater.queries.concept import Concept
from headwater.queries.outputs.output import OUTPUTS
from headwater.scenes.vocabulary import ATTRIBUTES

ASKED = ("ekfac", "trak", "gradient-dot", "kfac")
PARAMETERS = "attn2"
RECIPE: dict[str, Any] = {"loss_weights": "shapes-first", "draws": 4, "parameters": PARAMETERS}
# Of a question on held-out pictures, several for each; on training images; on made pictures.
HELD_DRAWS, TRAINING_DRAWS, MADE_DRAWS, SLIDER_DRAWS = 64, 64, 160, 32
WITHOUT = (
    ("training images", "training", TRAINING_DRAWS),
    ("its own pictures", "made", MADE_DRAWS),
)
SEEDS = 4  # models of everything that are averaged
SIZES = {
    "8,192 features, 1 draw": {"dim": 8192, "draws": 1},
    "32,768 features, 1 draw": {"dim": 32_768, "draws": 1},
    "32,768 features, 4 draws": {"dim": 32_768, "draws": 4},
    "every number, 4 draws": {"projection": "identity", "draws": 4},
}


def main() -> None:
    stages = {"tables": tables, "sizes": sizes, "ensembles": ensembles}
    command = parser(__doc__, "models", *stages)
    add_workers(command)
    command.add_argument("--second", action="store_true", help="the model that nothing chose on")
    command.add_argument("--methods", nargs="+", choices=ASKED, default=ASKED)
    given = command.parse_args()
    if given.full:
        command.error("--full is not of this experiment")
    torch.set_num_threads(1)
    study = SECOND if given.second else FIRST
    measured = study.trained(executor_of(given), given.device)
    if given.stage in stages:
        stages[given.stage](study, measured, given)


def tables(study: Trained, measured: list[Measured], given: argparse.Namespace) -> None:
    """Ask the model of everything, and compare with what the others put out."""
    truths = read_truths("scenes", study.data.samples)
    answers = {output: known(truths, output) for output in OUTPUTS}
    for method in given.methods:
        session = session_of(method, study, given.device)
        for output in OUTPUTS:
            answers[output] |= asked(session, method, output, truths, study.measure)
    if "ekfac" in given.methods:
        add_presence(session_of("ekfac", study, given.device), truths, answers)
    for output, found in answers.items():
        table(output, f"{study.name}-{output}", study, measured, found, given)


def sizes(study: Trained, measured: list[Measured], given: argparse.Namespace) -> None:
    """The same question of indexes that keep less, and that drew less noise."""
    truths = read_truths("scenes", study.data.samples)
    found = {}
    for name, changes in SIZES.items():
        session = session_of("ekfac", study, given.device, **changes)
        found[name] = on_held_out(session, "ekfac", "contribution", truths, study.measure)
    found[MEMBERSHIP] = membership(truths)
    table("contribution", f"{study.name}-sizes", study, measured, found, given)


def ensembles(study: Trained, measured: list[Measured], given: argparse.Namespace) -> None:
    """Models that differ by their seed alone, each asked on its own pictures, averaged."""
    truths = read_truths("scenes", study.data.samples)
    each = []
    for model in study.of_everything(SEEDS, executor_of(given), given.device):
        session = session_of("ekfac", study, given.device, model)
        of = session, "ekfac", "contribution", truths
        each.append(standard(without_held_out(*of, "made", MADE_DRAWS)))
    found = {f"{n} of {SEEDS} models": np.mean(each[:n], axis=0) for n in range(1, SEEDS + 1)}
    found |= {f"model {n}": scores for n, scores in enumerate(each, 1)}
    found[MEMBERSHIP] = membership(truths)
    table("contribution", f"{study.name}-ensembles", study, measured, found, given)


def session_of(
    method: str, study: Trained, device: str, model: Path | None = None, **changes: Any
) -> Session:
    """The index of the model of everything for a method, built or found.

    Args:
        model: another one of everything, by another seed.
        changes: of the recipe.
    """
    recipe = {**RECIPE, **changes}
    if method == "ekfac" or method == "kfac":
        recipe = {"projection": "identity", **recipe} if "dim" not in changes else recipe
    shared = "dsm" if method in ("trak", "gradient-dot") else method
    model = model or study.folder / "models" / study.plan.full.name
    seed = [] if model.name == study.plan.full.name else [model.name]
    name = "-".join([shared, *seed, *(f"{key}={value}" for key, value in changes.items())])
    denoiser, built_for = Denoiser.load(model, device), "trak" if shared == "dsm" else method
    out = study.indexes / name
    return Session(build_index(denoiser, study.data, out, method=built_for, **recipe))


# --- what is asked --------------------------------------------------------------------------------


@cache
def held_out(concept: str, measure: SceneMeasure) -> TrainingSet:
    """The pictures that outputs of a concept were measured on, captioned in full."""
    shown = [p for p in measure.held_out() if p.shows(concept)]
    captions = [scene_outputs.full_caption(picture) for picture in shown]
    return from_images([picture.draw() for picture in shown], captions)


def on_held_out(
    session: Session, method: str, output: str, truths: Sequence[Truth], measure: SceneMeasure
) -> np.ndarray:
    """Scores of every concept, [q, n]."""
    question = OUTPUTS[output]
    rows = []
    for truth in truths:
        pictures = held_out(truth.concept, measure)
        prompt, (words, anchor) = pictures.samples[0].caption, asked_as(truth.concept, output)
        query = question(prompt, words, anchor, pictures=pictures, draws=HELD_DRAWS)
        rows.append(session.attribute(query, method=method).scores)
    return np.stack(rows)


def asked_as(concept: str, output: str) -> tuple[str, str]:
    """Words and anchor with which c- is the caption that the outputs were measured with."""
    if concept in ATTRIBUTES["background"]:
        return f"{concept} background", ""
    anchored = concept in ATTRIBUTES["object"] and output == "contribution"
    return concept, "shape" if anchored else ""


def without_held_out(
    session: Session,
    method: str,
    output: str,
    truths: Sequence[Truth],
    pictures: str,
    draws: int,
) -> np.ndarray:
    """The same on training images that name the concept, or on made pictures of such captions."""
    question = OUTPUTS[output]
    rows = []
    for truth in truths:
        words, anchor = asked_as(truth.concept, output)
        query = question(words, words, anchor, pictures=pictures, draws=draws)
        rows.append(session.attribute(query, method=method).scores)
    return np.stack(rows)


def slider(session: Session, method: str, truths: Sequence[Truth]) -> np.ndarray:
    """The question of Concept-TRAK."""
    return np.stack([
        session.attribute(Concept(t.concept, t.concept, draws=SLIDER_DRAWS), method=method).scores
        for t in truths
    ])  # fmt: skip


def asked(
    session: Session, method: str, output: str, truths: Sequence[Truth], measure: SceneMeasure
) -> dict[str, np.ndarray]:
    """All that a method is asked."""
    found = {f"{method}, held-out pictures": on_held_out(session, method, output, truths, measure)}
    if method == "ekfac":
        for name, pictures, draws in WITHOUT:
            scores = without_held_out(session, method, output, truths, pictures, draws)
            found[f"{method}, {name}"] = scores
        found[f"{method}, slider"] = slider(session, method, truths)
    return found


def add_presence(
    session: Session, truths: Sequence[Truth], answers: dict[str, dict[str, np.ndarray]]
) -> None:
    """What the model itself sees in the images, alone and with the answers of EK-FAC."""
    named = membership(truths)
    seen = np.stack([
        session.attribute(Concept(t.concept, t.concept), method="presence").scores > 0
        for t in truths
    ])  # fmt: skip
    unnamed = seen * (1 - of_its_kind(truths, named))
    for output, found in answers.items():
        found["presence"] = weighed(output, named, unnamed)
        for name in ("held-out pictures", *(name for name, *_ in WITHOUT)):
            both = standard(found["presence"]) + standard(found[f"ekfac, {name}"])
            found[f"presence + ekfac, {name}"] = both


def of_its_kind(truths: Sequence[Truth], named: np.ndarray) -> np.ndarray:
    """Whether an image's caption names the concept or another colour, object, and so on, [q, n]."""
    kinds = [next(k for k, v in ATTRIBUTES.items() if t.concept in v) for t in truths]
    same = np.array([[own == other for other in kinds] for own in kinds])
    return (same @ named > 0).astype(float)


def weighed(output: str, named: np.ndarray, unnamed: np.ndarray) -> np.ndarray:
    """Images whose caption names a concept, and those that show it all the same.

    The latter teach the model to draw it without the word, so that the word gains less.
    """
    return named - 2 * unnamed if output == "contribution" else named + unnamed


def standard(scores: np.ndarray) -> np.ndarray:
    """Each concept's scores with mean 0 and standard deviation 1."""
    return (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)


def known(truths: Sequence[Truth], output: str) -> dict[str, np.ndarray]:
    """What needs no method: captions, and what is known of the pictures."""
    named, shown = membership(truths), np.stack([truth.shows for truth in truths]).astype(float)
    words = "named minus twice unnamed (truth)" if output == "contribution" else "shown (truth)"
    return {MEMBERSHIP: named, words: weighed(output, named, shown * (1 - named))}


# --- the tables -----------------------------------------------------------------------------------


def table(
    output: str,
    name: str,
    study: Trained,
    measured: list[Measured],
    answers: Mapping[str, np.ndarray],
    given: argparse.Namespace,
) -> None:
    """LDS of each answer on an output, beside what captions alone predict."""
    plan = study.plan
    found = collect(plan, measured, partial(output_of, name=output, measure=study.measure))
    rows = lds_rows(plan, found, dict(answers), MEMBERSHIP)
    unseen, words = unseen_of(plan), predicted_outputs(answers[MEMBERSHIP], plan.chosen)
    for row in rows[:-1]:
        predicted = predicted_outputs(answers[row["method"]], plan.chosen)[unseen]
        true = found.outputs[unseen]
        row[f"LDS, halves {SEEN + 1} on"] = Interval(*lds_interval(true, predicted))
        if row["method"] != MEMBERSHIP:
            above = Interval(*lds_difference(true, predicted, words[unseen]))
            row[f"above {MEMBERSHIP!r}, halves {SEEN + 1} on"] = above
    even, odd = (
        collect(plan, measured, partial(output_of, name=output, measure=study.measure, some=some))
        for some in (slice(None, None, 2), slice(1, None, 2))
    )
    alike = Interval(*lds_interval(even.outputs, odd.outputs))
    rows.append({"method": "one half of the pictures by the other", "LDS": alike})
    path = RESULTS / "influence" / name
    which = "" if study is FIRST else ", the second model"
    title = f"Concept LDS on the scenes{which}, {output}: {plan.subsets} halves, {PARAMETERS}"
    notes = [
        f"rows: weighed as in training, {RECIPE['draws']} draws of noise at each of 10 timesteps; "
        "ekfac and kfac keep every number, damping 0.01; trak 8,192 features, damping 0.1",
        f"held-out pictures: those that the output was measured on, {HELD_DRAWS} draws; training "
        f"images: {TRAINING_DRAWS} whose captions name the concept, each scored by the others; its "
        f"own: {MADE_DRAWS} pictures that the model makes under training captions that name it",
        "presence: captions that name it, and images in which the model sees it whose captions "
        "name nothing of its kind (of the contribution, less twice those); with ekfac: the sum of "
        "both, standardised",
    ]
    write_results(path, title, about(given), rows, notes)
    print((path / "table.md").read_text())


if __name__ == "__main__":
    main()
