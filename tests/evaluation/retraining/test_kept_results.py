"""What was measured of retrained models is kept in the repository, and found again by its key.

Fingerprints of models and data are others' matter: what stands in a key for them is left out here,
but for the one that removals are measured against.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from headwater import Denoiser, TrainingSet, load_dataset
from headwater.evaluation.counterfactual.compare import PictureChange
from headwater.evaluation.counterfactual.plan import removal_tasks
from headwater.evaluation.counterfactual.regenerate import (
    ConceptPrompts,
    PictureFile,
    Window,
    picture_file,
    prompts_for,
)
from headwater.evaluation.ground_truth.classifiers import ScenesClassifier
from headwater.evaluation.ground_truth.concepts import read_truths
from headwater.evaluation.ground_truth.oracles import break_ties, membership
from headwater.evaluation.retraining import scene_outputs
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.models import EncodedData
from headwater.evaluation.retraining.retrain import NOTHING, Measure, Study, Task
from headwater.evaluation.studies.subset_plan import SubsetPlan
from headwater.scenes.vocabulary import ATTRIBUTES

RESULTS = Path(__file__).parents[3] / "experiments" / "results" / "scenes"
pytestmark = pytest.mark.skipif(not RESULTS.exists(), reason="the experiments are not here")

# As `experiments/scenes_sizes.py` has it.
CONFIG = ModelConfig(
    phases=(Phase(1_500, learning_rate=2e-3, weight="shapes-first"),),
    network={"block_out_channels": (16, 32, 64)},
    text_encoder=None,
    ema_decay=0.998,
)


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return load_dataset("scenes").first(1_000)


FINGERPRINTS = ("data", "before")


def key(task: Task, measure: Measure) -> str:
    encoded = EncodedData(torch.empty(0, 1, 1, 1), None)
    return without_fingerprints(Study(RESULTS, CONFIG, encoded, "", measure).key(task))


def written(path: Path) -> str:
    return without_fingerprints(json.loads(path.read_text())["key"])


def without_fingerprints(key: dict) -> str:
    """As JSON, in the order of its facts."""
    facts = {**key, "measured": dict(key["measured"])}
    for part in (facts, facts["measured"]):
        for name in FINGERPRINTS:
            if name in part:
                part[name] = "?"
    return json.dumps(facts)


@pytest.mark.parametrize("number", [0, 1, 32, 33, 38])
def test_of_halves(number: int) -> None:
    task = SubsetPlan(1_000, 32, 6).tasks()[number]
    measure = scene_outputs.MEASURE
    own = key(task, Measure(measure, measure.facts()))
    assert own == written(RESULTS / "outputs" / f"{task.name}.json")


def test_of_the_full_model() -> None:
    task = Task("full", tuple(range(1_000)), kept=True)
    path = RESULTS / "removed" / "outputs" / "full.json"
    assert key(task, NOTHING) == written(path)


@pytest.mark.parametrize(
    ("folder", "count", "windows"),
    [
        ("removed", 25, ()),
        ("windows", 100, ((999, 749), (749, 499), (499, 249), (249, 0))),
    ],
)
def test_of_a_removal(
    data: TrainingSet, tmp_path: Path, folder: str, count: int, windows: tuple[tuple[int, int], ...]
) -> None:
    """The task's name holds which images are left; the key which prompts are compared."""
    truths = read_truths("scenes", data.samples)
    row = next(i for i, truth in enumerate(truths) if truth.concept == "arrow")
    scores = {"caption": break_ties(membership(truths))[row]}
    ((task,),) = removal_tasks("arrow", scores, [count]).values()
    captions = [sample.caption for sample in data.samples]
    prompts = prompts_for("arrow", truths[row].prompt, captions, 64)
    before = PictureFile(tmp_path, (), "arrow")
    spans = tuple(Window(*window) for window in windows)
    change = PictureChange(prompts, ScenesClassifier(), before, tmp_path, tmp_path, spans)
    own = key(task, Measure(change, change.facts()))
    assert own == written(RESULTS / folder / "outputs" / f"{task.name}.json")


def test_removals_were_measured_against_the_kept_model(tmp_path: Path) -> None:
    """On whichever machine: their keys name its pictures by its fingerprint."""
    model = Denoiser.load(RESULTS / "removed" / "models" / "full", "cpu")
    for path in (RESULTS / "removed" / "outputs").glob("arrow-*.json"):
        measured = json.loads(path.read_text())["key"]["measured"]
        concept, prompts, naming, seeds = (
            measured[name] for name in ("concept", "prompts", "naming", "seeds")
        )
        asked = ConceptPrompts(concept, tuple(prompts), naming, tuple(seeds))
        assert measured["before"] == picture_file(tmp_path, asked, model).name


def test_most_was_removed_for_what_the_kept_model_draws_most_surely() -> None:
    """Which concepts a stage is about is read from what was measured of the model of everything."""
    outputs = json.loads((RESULTS / "outputs" / "full.json").read_text())["outputs"]
    rates = dict(zip(scene_outputs.CONCEPTS, outputs["rates"], strict=True))
    surest = {
        concept
        for kind, count in (("object", 1), ("colour", 2), ("style", 2))
        for concept in sorted(ATTRIBUTES[kind], key=rates.__getitem__)[-count:]
    }
    removals = (RESULTS / "removed" / "outputs").glob("*-caption-0025-*.json")
    assert surest == {path.name.split("-")[0] for path in removals}


def test_numbers_of_a_kept_model() -> None:
    """Its losses by concept, against a loop."""
    outputs = json.loads((RESULTS / "outputs" / "half-000.json").read_text())["outputs"]
    by_concept = scene_outputs.by_concept(outputs)
    held_out = scene_outputs.MEASURE.held_out()
    for i, word in enumerate(scene_outputs.CONCEPTS):
        losses = [outputs["losses"][row] for row, p in enumerate(held_out) if p.shows(word)]
        assert by_concept["loss"][i] == pytest.approx(np.mean(losses))
    assert by_concept["rate"].tolist() == [-rate for rate in outputs["rates"]]
