"""LDS of methods on a data set: hold pictures out, train, attribute, compare.

The pictures that outputs are measured on are taken out of the data set before anything is trained.
Everything is kept in one folder: a run that was stopped goes on, one that is asked for more halves
or methods adds them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from headwater.data.training_set import TrainingSet
from headwater.errors import QueryError
from headwater.evaluation.ground_truth.concepts import Truth, read_truths
from headwater.evaluation.ground_truth.oracles import MEMBERSHIP, membership
from headwater.evaluation.retraining.config import ModelConfig
from headwater.evaluation.retraining.networks import new_pipeline
from headwater.evaluation.retraining.outputs import NOISE, NoiseSpec, denoising_losses
from headwater.evaluation.retraining.retrain import (
    Measure,
    Measured,
    cached_encoding,
    retrain,
    study_of,
)
from headwater.evaluation.studies.method_indexes import (
    build_indexes,
    gradient_methods,
    require_askable,
)
from headwater.evaluation.studies.method_scores import (
    QuestionOptions,
    require_named,
    score_concepts,
    score_questions,
)
from headwater.evaluation.studies.subset_plan import (
    SubsetPlan,
    collect,
    lds_by_query,
    lds_rows,
)
from headwater.index.config import plan
from headwater.index.index import Index
from headwater.methods.choice import method_named
from headwater.methods.row import Method
from headwater.models.denoiser import Denoiser
from headwater.queries.image import Image
from headwater.queries.words import prompts
from headwater.runtime.executor import THIS_PROCESS, Executor
from headwater.storage.files import remove_abandoned, write_image

NO_PROMPTS = "the configuration's model reads no prompts: give one with a `base`"
# A data set of this many concepts has this many pictures of each held out, at least.
FEWEST = 3
SMALLEST = 4  # images that must be left to train on


# Rows, and the values that they are means of: method -> LDS of each query.
Table = tuple[list[dict[str, Any]], dict[str, list[float]]]
# Name -> row of a picture -> its caption, of the rows that are measured under it.
CaptionSets = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Losses:
    """What is measured: the denoising losses of pictures under several sets of captions."""

    x0: Float[Tensor, "n c h w"]
    captions: CaptionSets
    noise: NoiseSpec = NOISE

    def __call__(self, denoiser: Denoiser) -> Measured:
        """For each set of captions the losses of its rows."""
        return {
            name: denoising_losses(
                denoiser, self.x0[list(captions)], list(captions.values()), self.noise, [*captions]
            ).tolist()
            for name, captions in self.captions.items()
        }


@dataclass(frozen=True)
class LDSStudy:
    """A data set split for a study, its models, and where everything is kept.

    Attributes:
        trained: the images to train on; `held` those held out.
        parameters: what gradients are of; None for what suits the model.
    """

    out: Path
    config: ModelConfig
    trained: TrainingSet
    held: TrainingSet
    plan: SubsetPlan
    executor: Executor = THIS_PROCESS
    device: str = "cpu"
    parameters: str | None = None

    def full_model(self) -> Denoiser:
        """The model of everything."""
        return Denoiser.load(self.out / "models" / self.plan.full.name, self.device)

    def indexes(self, names: Sequence[str]) -> dict[Method, Index]:
        """An index of that model for each method."""
        recipe = {} if self.parameters is None else {"parameters": self.parameters}
        full, folder = self.full_model(), self.out / "indexes"
        return build_indexes(full, self.trained, folder, names, **recipe)


def hold_out(data: TrainingSet, count: int, seed: int = 0) -> tuple[TrainingSet, TrainingSet]:
    """(pictures to train on, pictures held out), each in the data set's order.

    Raises:
        QueryError: too few would be left.
    """
    if not 1 <= count <= len(data) - SMALLEST:
        raise QueryError(
            f"--held-out {count} of {len(data)} images: at least 1, and leave {SMALLEST} to train "
            "on"
        )
    out = set(random.Random(f"held out|{seed}").sample(range(len(data)), count))
    return data.take([r for r in range(len(data)) if r not in out]), data.take(sorted(out))


def measure_models(study: LDSStudy, names: Sequence[str], captions: CaptionSets) -> list[Measured]:
    """The losses of held-out pictures under these captions, by every model of the plan.

    Args:
        names: methods that are to be asked of the model of everything.

    Raises:
        QueryError: there are several sets of captions, and the model reads none.
        MethodError: a method guides by prompts, and the model reads none.
        ParameterError: the model has no such parameters.
    """
    denoiser = Denoiser(new_pipeline(study.config, 0), "", "cpu")
    if len(captions) > 1 and not denoiser.conditional:
        raise QueryError(NO_PROMPTS)
    for name in gradient_methods(names):  # refused before anything is trained
        plan(denoiser, method=name, parameters=study.parameters)
    held = cached_encoding(study.out / "encoded", denoiser, study.held)
    losses = Losses(held.x0, dict(captions))
    facts = {
        "held out": study.held.fingerprint,
        "captions": {name: dict(of_rows) for name, of_rows in captions.items()},
        "timesteps": losses.noise.timesteps,
        "draws": losses.noise.draws,
    }
    measure = Measure(losses, facts)
    models = study_of(study.out, study.config, study.trained, denoiser, measure, study.device)
    return retrain(models, study.plan.tasks(), study.executor)


# --- the two studies ------------------------------------------------------------------------------


def lds_of_pictures(study: LDSStudy, names: Sequence[str], options: QuestionOptions) -> Table:
    """LDS as in the papers: a query is a held-out picture, its output its denoising loss.

    Raises:
        MethodError: see `require_askable`.
        ParameterError: the model has no such parameters.
    """
    require_askable(names, "image")
    captions = {"own": _own_captions(study.held)}
    measured = collect(study.plan, measure_models(study, names, captions), _own_losses)
    files = write_pictures(study.out / "held-out", study.held)
    scores = score_questions(
        study.indexes(names),
        lambda method: [Image(c, f, draws=options.draws, seed=options.seed) for c, f in files],
        study.out / "scores",
        options.damping,
    )
    return lds_rows(study.plan, measured, scores), lds_by_query(study.plan, measured, scores)


def _own_captions(data: TrainingSet) -> dict[int, str]:
    return {row: sample.caption for row, sample in enumerate(data.samples)}


def _own_losses(measured: Measured) -> np.ndarray:
    return np.array(measured["own"])


def write_pictures(folder: Path, data: TrainingSet) -> list[tuple[str, Path]]:
    """(caption, file) of each picture, written into the folder: questions are about files."""
    folder = folder / data.fingerprint[:32]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for row, sample in enumerate(data.samples):
        file = folder / f"{row:05d}.png"
        if not file.exists():
            write_image(file, data.image(row))
        pictures.append((sample.caption, file))
    remove_abandoned(folder)
    return pictures


def lds_of_concepts(
    study: LDSStudy, names: Sequence[str], truth: str, options: QuestionOptions
) -> dict[str, Table]:
    """Does a score predict how much of a concept a model learns? A table for each output.

    `loss` is the mean denoising loss of held-out pictures that show the concept, `contribution`
    by how much the concept's words in the caption lower it.

    Raises:
        QueryError: too few held-out pictures show any concept.
        MethodError: see `require_askable`.
        ParameterError: the model has no such parameters.
    """
    require_askable(names, options.ask)
    truths, rows_of = shared_truths(study, truth)
    require_named(map(method_named, names), truths)
    own = _own_captions(study.held)
    captions = {"own": own} | {
        f"without {concept}": {row: prompts.without(own[row], concept) for row in rows.tolist()}
        for concept, rows in rows_of.items()
    }
    measured = measure_models(study, names, captions)
    scores = score_concepts(study.indexes(names), truths, options, study.out / "scores")
    scores[MEMBERSHIP] = membership(truths)

    def loss(losses: Measured) -> np.ndarray:
        return np.array([_own_losses(losses)[rows].mean() for rows in rows_of.values()])

    def contribution(losses: Measured) -> np.ndarray:
        without = [np.mean(losses[f"without {concept}"]) for concept in rows_of]
        return loss(losses) - np.array(without)

    tables = {}
    for name, output in {"loss": loss, "contribution": contribution}.items():
        of_plan = collect(study.plan, measured, output)
        rows = lds_rows(study.plan, of_plan, scores, MEMBERSHIP)
        tables[name] = rows, lds_by_query(study.plan, of_plan, scores)
    return tables


def shared_truths(study: LDSStudy, source: str) -> tuple[list[Truth], dict[str, np.ndarray]]:
    """The truths that enough held-out pictures show and name, and which pictures these are."""
    samples = [*study.trained.samples, *study.held.samples]
    count = len(study.trained)
    truths, rows_of = [], {}
    for truth in read_truths(source, samples):
        rows = np.flatnonzero((truth.shows & truth.names & ~truth.ambiguous)[count:])
        if len(rows) >= FEWEST and truth.shows[:count].any():
            rows_of[truth.concept] = rows
            truths.append(truth.first(count))
    if not truths:
        raise QueryError(
            f"no concept of {source} is shown and named by {FEWEST} of the {len(study.held)} "
            "pictures held out: raise --held-out"
        )
    return truths, rows_of
