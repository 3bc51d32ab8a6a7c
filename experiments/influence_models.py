"""The models that influence is asked of: those of `scenes.py`, and such that nothing chose on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from common import RESULTS
from scenes_sizes import REDUCED

from headwater import Denoiser, TrainingSet, load_dataset
from headwater.evaluation.retraining.retrain import Measure, Measured, Study, retrain, study_of
from headwater.evaluation.retraining.scene_outputs import MEASURE, SceneMeasure
from headwater.evaluation.studies.subset_plan import SubsetPlan
from headwater.runtime.executor import Executor

IMAGES = 1_000
HALVES = SubsetPlan(IMAGES, subsets=32, again=6)


@dataclass(frozen=True)
class Trained:
    """A model of some scenes, and others of random halves of them.

    Attributes:
        folder: where the models are.
        indexes: where its indexes are.
        first: of the training pictures.
        plan: which halves.
        seed: added to those of the plan's models.
        measure: of each model.
    """

    name: str
    folder: Path
    indexes: Path
    first: int = 0
    plan: SubsetPlan = HALVES
    seed: int = 0
    measure: SceneMeasure = MEASURE

    @property
    def data(self) -> TrainingSet:
        """The pictures of the model of everything."""
        return load_dataset("scenes").take(range(self.first, self.first + IMAGES))

    def trained(self, executor: Executor, device: str) -> list[Measured]:
        """What was measured of every model."""
        tasks = [replace(task, seed=task.seed + self.seed) for task in self.plan.tasks()]
        return retrain(self._study(device), tasks, executor)

    def of_everything(self, seeds: int, executor: Executor, device: str) -> list[Path]:
        """The model of everything, and others of the same pictures by further seeds."""
        study, full = self._study(device), replace(self.plan.full, seed=self.seed)
        others = [
            replace(full, name=f"{full.name}-{seed}", seed=self.seed + seed)
            for seed in range(1, seeds)
        ]
        retrain(study, [full, *others], executor)
        return [study.model(task) for task in (full, *others)]

    def _study(self, device: str) -> Study:
        encoder = Denoiser.load("scenes", "cpu")
        measure = Measure(self.measure, self.measure.facts())
        return study_of(self.folder, REDUCED, self.data, encoder, measure, device)


FIRST = Trained("scenes", RESULTS / "scenes", RESULTS / "influence" / "indexes")
SECOND = Trained(
    "second",
    RESULTS / "scenes-second",
    RESULTS / "scenes-second" / "indexes",
    first=IMAGES,
    plan=replace(HALVES, seed=1),
    seed=100,
    measure=SceneMeasure(pictures=500),  # all that are held out
)
