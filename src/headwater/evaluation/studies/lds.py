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
from headwater.evaluation.retraining.models import new_pipeline
from headwater.evaluation.retraining.outputs import denoising_losses
from headwater.evaluation.retraining.retrain import Measured, kept_encoding, retrained, study_of
from headwater.evaluation.studies.method_indexes import indexes_of, of_gradients, require
from headwater.evaluation.studies.method_scores import Asking, answered, require_named, scores
from headwater.evaluation.studies.subset_plan import Plan, by_query, collect, rows_of
from headwater.index.index import Index
from headwater.methods import Method, method_named
from headwater.models.denoiser import Denoiser
from headwater.queries import prompts
from headwater.queries.image import Image
from headwater.runtime.executor import HERE, Engine
from headwater.storage.files import write_image

NO_PROMPTS = "the configuration's model reads no prompts: give one with a `base`"
# A data set of this many concepts has this many pictures of each held out, at least.
FEWEST = 3


# Rows, and the values that they are means of: method -> LDS of each query.
Table = tuple[list[dict[str, Any]], dict[str, list[float]]]


@dataclass(frozen=True)
class Losses:
    """What is measured: the denoising losses of pictures under several sets of captions.

    Attributes:
        captions: name -> row of a picture -> its caption, of the rows that are measured under it.
    """

    x0: Float[Tensor, "n c h w"]
    captions: Mapping[str, Mapping[int, str]]
    timesteps: int = 10
    draws: int = 3

    def __call__(self, denoiser: Denoiser) -> Measured:
        """For each set of captions the losses of its rows."""
        many = {"timesteps": self.timesteps, "draws": self.draws}
        return {
            name: denoising_losses(
                denoiser, self.x0[list(said)], list(said.values()), rows=list(said), **many
            ).tolist()
            for name, said in self.captions.items()
        }


@dataclass(frozen=True)
class Setting:
    """A data set split for a study, its models, and where everything is kept.

    Attributes:
        parameters: what gradients are of; None for what suits the model.
    """

    out: Path
    config: ModelConfig
    trained: TrainingSet
    held: TrainingSet
    plan: Plan
    engine: Engine = HERE
    device: str = "cpu"
    parameters: str | None = None


def split(data: TrainingSet, held_out: int, seed: int = 0) -> tuple[TrainingSet, TrainingSet]:
    """(pictures to train on, pictures held out), each in the data set's order.

    Raises:
        QueryError: too few would be left.
    """
    if not 1 <= held_out <= len(data) - 4:
        raise QueryError(
            f"--held-out {held_out} of {len(data)} images: at least 1, and leave 4 to train on"
        )
    out = set(random.Random(f"held out|{seed}").sample(range(len(data)), held_out))
    return data.take([r for r in range(len(data)) if r not in out]), data.take(sorted(out))


def measured_with(
    setting: Setting, names: Sequence[str], captions: Mapping[str, Mapping[int, str]]
) -> list[Measured]:
    """The losses of held-out pictures under these captions, by every model of the plan.

    Args:
        names: methods that are to be asked of the model of everything.
        captions: see `Losses`.

    Raises:
        QueryError: there are several sets of captions, and the model reads none.
        ParameterError: the model has no such parameters.
    """
    denoiser = Denoiser(new_pipeline(setting.config, 0), "", "cpu")
    if len(captions) > 1 and not denoiser.conditional:
        raise QueryError(NO_PROMPTS)
    if of_gradients(names):  # refused before anything is trained
        denoiser.layers(setting.parameters)
    held = kept_encoding(setting.out / "encoded", denoiser, setting.held)
    measure = Losses(held.x0, dict(captions))
    facts = {
        "held out": setting.held.fingerprint,
        "captions": {name: dict(said) for name, said in captions.items()},
        "timesteps": measure.timesteps,
        "draws": measure.draws,
    }
    study = study_of(
        setting.out, setting.config, setting.trained, denoiser, measure, facts, setting.device
    )
    return retrained(study, setting.plan.tasks(), setting.engine)


def full_model(setting: Setting) -> Denoiser:
    """The model of everything."""
    return Denoiser.load(setting.out / "models" / setting.plan.full.name, setting.device)


# --- the two studies ------------------------------------------------------------------------------


def _indexes(setting: Setting, names: Sequence[str]) -> dict[Method, Index]:
    recipe = {} if setting.parameters is None else {"parameters": setting.parameters}
    full, folder = full_model(setting), setting.out / "indexes"
    return indexes_of(full, setting.trained, folder, names, **recipe)


def lds_of_pictures(setting: Setting, names: Sequence[str], asking: Asking) -> Table:
    """LDS as in the papers: a query is a held-out picture, its output its denoising loss.

    Raises:
        MethodError: see `require`.
        ParameterError: the model has no such parameters.
    """
    require(names, "image")
    captions = {"own": _captions(setting.held)}
    found = collect(setting.plan, measured_with(setting, names, captions), _own)
    shown = pictures_in(setting.out / "held-out", setting.held)
    answers = answered(
        _indexes(setting, names),
        lambda method: [Image(c, f, draws=asking.draws, seed=asking.seed) for c, f in shown],
        setting.out / "scores",
        asking.damping,
    )
    return rows_of(setting.plan, found, answers), by_query(setting.plan, found, answers)


def _captions(data: TrainingSet) -> dict[int, str]:
    return {row: sample.caption for row, sample in enumerate(data.samples)}


def _own(measured: Measured) -> np.ndarray:
    return np.array(measured["own"])


def pictures_in(folder: Path, data: TrainingSet) -> list[tuple[str, Path]]:
    """(caption, file) of each picture, written into the folder: questions are about files."""
    folder = folder / data.fingerprint[:32]
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for row, sample in enumerate(data.samples):
        file = folder / f"{row:05d}.png"
        if not file.exists():
            write_image(file, data.image(row))
        shown.append((sample.caption, file))
    return shown


def lds_of_concepts(
    setting: Setting, names: Sequence[str], truth: str, asking: Asking
) -> dict[str, Table]:
    """Does a score predict how much of a concept a model learns? A table for each output.

    `loss` is the mean denoising loss of held-out pictures that show the concept, `contribution`
    by how much the concept's words in the caption lower it.

    Raises:
        QueryError: too few held-out pictures show any concept.
        MethodError: see `require`.
        ParameterError: the model has no such parameters.
    """
    require(names, "concept")
    truths, shown = _in_both(setting, truth)
    require_named(map(method_named, names), truths)
    own = _captions(setting.held)
    captions = {"own": own} | {
        f"without {concept}": {row: prompts.without(own[row], concept) for row in rows.tolist()}
        for concept, rows in shown.items()
    }
    measured = measured_with(setting, names, captions)
    answers = scores(_indexes(setting, names), truths, asking, setting.out / "scores")
    answers[MEMBERSHIP] = membership(truths)

    def loss(each: Measured) -> np.ndarray:
        return np.array([_own(each)[rows].mean() for rows in shown.values()])

    def contribution(each: Measured) -> np.ndarray:
        without = [np.mean(each[f"without {concept}"]) for concept in shown]
        return loss(each) - np.array(without)

    tables = {}
    for output in (loss, contribution):
        found = collect(setting.plan, measured, output)
        rows = rows_of(setting.plan, found, answers, MEMBERSHIP)
        tables[output.__name__] = rows, by_query(setting.plan, found, answers)
    return tables


def _in_both(setting: Setting, source: str) -> tuple[list[Truth], dict[str, np.ndarray]]:
    """The truths that enough held-out pictures show and name, and which pictures these are."""
    everything = [*setting.trained.samples, *setting.held.samples]
    count = len(setting.trained)
    truths, shown = [], {}
    for both in read_truths(source, everything):
        rows = np.flatnonzero((both.shows & both.names & ~both.ambiguous)[count:])
        if len(rows) >= FEWEST and both.shows[:count].any():
            shown[both.concept] = rows
            truths.append(both.first(count))
    if not truths:
        raise QueryError(
            f"no concept of {source} is shown and named by {FEWEST} of the {len(setting.held)} "
            "pictures held out: raise --held-out"
        )
    return truths, shown
