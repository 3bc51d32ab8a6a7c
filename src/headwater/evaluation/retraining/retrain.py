"""Many small models, each trained on some of the images, and what is measured of each.

Each model leaves one JSON file with all that its numbers depend on. A run that was stopped, or is
asked for more models later, trains those that are missing and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from headwater.data.training_set import TrainingSet
from headwater.errors import MismatchError
from headwater.evaluation.retraining.config import ModelConfig
from headwater.evaluation.retraining.models import (
    EncodedData,
    captions_of,
    encode_data,
    save_pipeline,
    train,
)
from headwater.evaluation.retraining.networks import new_pipeline
from headwater.models.denoiser import Denoiser
from headwater.runtime.executor import THIS_PROCESS, Executor, run
from headwater.storage.cache import remember
from headwater.storage.files import changing, remove_abandoned, write_text

Measured = dict[str, list[float]]  # name -> numbers


@dataclass(frozen=True)
class Measure:
    """What is measured of a model.

    Attributes:
        function: one that other processes can import.
        facts: what it does, in words and numbers, as JSON has it: another one is refused.
    """

    function: Callable[[Denoiser], Measured]
    facts: Mapping[str, Any]


def measure_nothing(denoiser: Denoiser) -> Measured:
    """For models of which it is known later what is measured."""
    return {}


NOTHING = Measure(measure_nothing, {})


@dataclass(frozen=True)
class Task:
    """A model to train: its name in the folder, the rows that it sees, and its seed.

    The weights of one that is `kept` stay as a pipeline in `models/NAME`.
    """

    name: str
    rows: tuple[int, ...]
    seed: int = 0
    kept: bool = False


@dataclass(frozen=True)
class Study:
    """What all models of a folder share.

    Args:
        data: of all images.
        source: what `data` is, a fingerprint. (Its own numbers would do, but for their last bits,
            which differ from machine to machine, and a study may go on elsewhere.)
    """

    folder: Path
    config: ModelConfig
    data: EncodedData
    source: str
    measure: Measure
    device: str = "cpu"

    def key(self, task: Task) -> dict[str, Any]:
        """All that a task's numbers depend on, as JSON has it."""
        facts = {
            "config": self.config.facts(),
            "data": self.source,
            "rows": digest(task.rows),
            "seed": task.seed,
            "measured": self.measure.facts,
        }
        return json.loads(json.dumps(facts))

    def model(self, task: Task) -> Path:
        """Where a kept model lies."""
        return self.folder / "models" / task.name


def digest(facts: Any) -> str:
    """sha256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def retrain(
    study: Study, tasks: Sequence[Task], executor: Executor = THIS_PROCESS
) -> list[Measured]:
    """What was measured of each task's model, in order; models that are missing are trained.

    Raises:
        MismatchError: the folder holds models of another configuration, data set or measure.
        ResourceError: a worker died.
    """
    return retrain_all([(study, tasks)], executor)[0]


def retrain_all(
    plans: Sequence[tuple[Study, Sequence[Task]]], executor: Executor = THIS_PROCESS
) -> list[list[Measured]]:
    """The same for several studies, whose models are trained side by side as those of one.

    Args:
        plans: studies of the same data set, on the same device, and the tasks of each.
    """
    items = [(number, task) for number, (_, tasks) in enumerate(plans) for task in tasks]
    studies = [study for study, _ in plans]
    missing = [item for item in items if read_outputs(studies[item[0]], item[1]) is None]
    with tqdm(total=len(items), initial=len(items) - len(missing), desc="models", delay=2) as bar:
        for _ in run(executor, partial(_trainer, studies), missing, studies[0].device):
            bar.update()
    for study, tasks in plans:
        _remove_leftovers(study, tasks)
    return [[_require_outputs(study, task) for task in tasks] for study, tasks in plans]


def _remove_leftovers(study: Study, tasks: Sequence[Task]) -> None:
    """Remove what kills left of tasks that are done: half-written files, and their trainings."""
    remove_abandoned(study.folder / "outputs")
    done = {task.name for task in tasks}
    for scratch in (study.folder / "training").glob("*-????????"):
        if scratch.name[:-9] in done:
            shutil.rmtree(scratch, ignore_errors=True)


def read_outputs(study: Study, task: Task) -> Measured | None:
    """What was measured of a task's model, or None where it is still to be trained.

    Raises:
        MismatchError: it was trained otherwise; names what differs first.
    """
    path = _outputs_file(study, task)
    if not path.exists() or (task.kept and not study.model(task).exists()):
        return None
    written, wanted = json.loads(path.read_text()), study.key(task)
    for name, value in wanted.items():
        if written["key"].get(name) != value:
            raise MismatchError(
                f"{path} is of other models, {name!r} differs: give another folder, or remove it"
            )
    return written["outputs"]


def _require_outputs(study: Study, task: Task) -> Measured:
    outputs = read_outputs(study, task)
    assert outputs is not None, "a model that was just trained is gone"
    return outputs


def _outputs_file(study: Study, task: Task) -> Path:
    return study.folder / "outputs" / f"{task.name}.json"


def _trainer(studies: Sequence[Study]) -> Callable[[tuple[int, Task]], None]:
    return lambda item: train_and_measure(studies[item[0]], item[1])


def train_and_measure(study: Study, task: Task) -> None:
    """Train one model, measure it, write down what was found."""
    key = study.key(task)
    scratch = study.folder / "training" / f"{task.name}-{digest(key)[:8]}"
    pipe = new_pipeline(study.config, task.seed)
    data = study.data.take(task.rows)
    train(pipe, data, study.config, scratch, seed=task.seed, device=study.device)
    denoiser = Denoiser(pipe, task.name, study.device)
    outputs = study.measure.function(denoiser)
    if task.kept:
        part = study.model(task).with_suffix(".part")
        with changing(study.model(task)):
            save_pipeline(pipe, part)
            shutil.rmtree(study.model(task), ignore_errors=True)
            part.replace(study.model(task))
    written = {"key": key, "trained on": _circumstances(study.device), "outputs": outputs}
    write_text(_outputs_file(study, task), json.dumps(written))
    shutil.rmtree(scratch, ignore_errors=True)


def _circumstances(device: str) -> str:
    """What trains on this device: other devices and versions end in other last bits."""
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return f"{where}, torch {torch.__version__}"


def device_notes(folder: Path, tasks: Iterable[Task]) -> list[str]:
    """A line, where the models of finished tasks were not all trained on one device."""
    written = [json.loads((folder / "outputs" / f"{task.name}.json").read_text()) for task in tasks]
    counted = Counter(outputs.get("trained on", "not recorded") for outputs in written)
    text = "; ".join(f"{count} models: {where}" for where, count in counted.most_common())
    return [f"trained on: {text}"] if len(counted) > 1 else []


def study_of(
    folder: Path,
    config: ModelConfig,
    data: TrainingSet,
    encoder: Denoiser,
    measure: Measure = NOTHING,
    device: str = "cpu",
) -> Study:
    """A study of these images.

    Args:
        encoder: of the images; where the configuration begins with the base's own network, that
            base too.
    """
    encoded, source = (
        cached_encoding(folder / "encoded", encoder, data),
        encoding_source(encoder, data),
    )
    if config.network is None:
        source += f" {encoder.fingerprint()}"
    return Study(folder, config, encoded, source, measure, device)


def encoding_source(encoder: Denoiser, data: TrainingSet) -> str:
    """What an encoding is of, and by what: fingerprints."""
    return f"{data.fingerprint} {encoder.encoders_fingerprint()}"


def cached_encoding(folder: Path, encoder: Denoiser, data: TrainingSet) -> EncodedData:
    """A data set's latents, computed once for each encoder and kept in the folder; its captions."""

    def compute() -> dict[str, Tensor]:
        return {"x0": encode_data(encoder, data).x0}

    tensors = remember(folder, {"encoded": encoding_source(encoder, data)}, compute).tensors
    return EncodedData(tensors["x0"], captions_of(encoder, data))
