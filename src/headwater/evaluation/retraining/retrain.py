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
from tqdm import tqdm

from headwater.data.training_set import TrainingSet
from headwater.errors import MismatchError
from headwater.evaluation.retraining.config import ModelConfig
from headwater.evaluation.retraining.models import (
    Encoded,
    encoded,
    new_pipeline,
    save_pipeline,
    train,
)
from headwater.models.denoiser import Denoiser
from headwater.runtime.executor import THIS_PROCESS, Executor, run
from headwater.storage.files import read_tensors, write_tensors, write_text

# What is measured: name -> numbers. A function that other processes can import.
Measured = dict[str, list[float]]
Measure = Callable[[Denoiser], Measured]


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
        measured: what `measure` does, in words and numbers: another one is refused.
    """

    folder: Path
    config: ModelConfig
    data: Encoded
    source: str
    measure: Measure
    measured: Mapping[str, Any]
    device: str = "cpu"

    def key(self, task: Task) -> dict[str, Any]:
        """All that a task's numbers depend on, as JSON has it."""
        facts = {
            "config": self.config.facts(),
            "data": self.source,
            "rows": digest(task.rows),
            "seed": task.seed,
            "measured": self.measured,
        }
        return json.loads(json.dumps(facts))

    def model(self, task: Task) -> Path:
        """Where a kept model lies."""
        return self.folder / "models" / task.name


def digest(facts: Any) -> str:
    """sha256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def retrained(
    study: Study, tasks: Sequence[Task], executor: Executor = THIS_PROCESS
) -> list[Measured]:
    """What was measured of each task's model, in order; models that are missing are trained.

    Raises:
        MismatchError: the folder holds models of another configuration, data set or measure.
        ResourceError: a worker died.
    """
    return all_retrained([(study, tasks)], executor)[0]


def all_retrained(
    asked: Sequence[tuple[Study, Sequence[Task]]], executor: Executor = THIS_PROCESS
) -> list[list[Measured]]:
    """The same for several studies, whose models are trained side by side as those of one.

    Args:
        asked: studies of the same data set, on the same device, and the tasks of each.
    """
    items = [(number, task) for number, (_, tasks) in enumerate(asked) for task in tasks]
    studies = [study for study, _ in asked]
    missing = [item for item in items if finished(studies[item[0]], item[1]) is None]
    with tqdm(total=len(items), initial=len(items) - len(missing), desc="models", delay=2) as bar:
        for _ in run(executor, partial(_trainer, studies), missing, studies[0].device):
            bar.update()
    return [[_there(study, task) for task in tasks] for study, tasks in asked]


def finished(study: Study, task: Task) -> Measured | None:
    """What was measured of a task's model, or None where it is still to be trained.

    Raises:
        MismatchError: it was trained otherwise; names what differs first.
    """
    path = _results(study, task)
    if not path.exists() or (task.kept and not study.model(task).exists()):
        return None
    written, wanted = json.loads(path.read_text()), study.key(task)
    for name, value in wanted.items():
        if written["key"].get(name) != value:
            raise MismatchError(
                f"{path} is of other models, {name!r} differs: give another folder, or remove it"
            )
    return written["outputs"]


def _there(study: Study, task: Task) -> Measured:
    found = finished(study, task)
    assert found is not None, "a model that was just trained is gone"
    return found


def _results(study: Study, task: Task) -> Path:
    return study.folder / "outputs" / f"{task.name}.json"


def _trainer(studies: Sequence[Study]) -> Callable[[tuple[int, Task]], None]:
    return lambda item: work(studies[item[0]], item[1])


def work(study: Study, task: Task) -> None:
    """Train one model, measure it, write down what was found."""
    key = study.key(task)
    scratch = study.folder / "training" / f"{task.name}-{digest(key)[:8]}"
    pipe = new_pipeline(study.config, task.seed)
    train(pipe, study.data, task.rows, study.config, scratch, seed=task.seed, device=study.device)
    denoiser = Denoiser(pipe, task.name, study.device)
    outputs = study.measure(denoiser)
    if task.kept:
        part = study.model(task).with_suffix(".part")
        save_pipeline(pipe, part)
        shutil.rmtree(study.model(task), ignore_errors=True)
        part.replace(study.model(task))
    written = {"key": key, "trained on": _here(study.device), "outputs": outputs}
    write_text(_results(study, task), json.dumps(written))
    shutil.rmtree(scratch, ignore_errors=True)


def _here(device: str) -> str:
    """What trains on this device: other devices and versions end in other last bits."""
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return f"{where}, torch {torch.__version__}"


def devices(folder: Path, tasks: Iterable[Task]) -> list[str]:
    """A line, where the models of finished tasks were not all trained on one device."""
    written = [json.loads((folder / "outputs" / f"{each.name}.json").read_text()) for each in tasks]
    counted = Counter(each.get("trained on", "not recorded") for each in written)
    said = "; ".join(f"{count} models: {where}" for where, count in counted.most_common())
    return [f"trained on: {said}"] if len(counted) > 1 else []


def study_of(
    folder: Path,
    config: ModelConfig,
    data: TrainingSet,
    encoder: Denoiser,
    measure: Measure,
    measured: Mapping[str, Any],
    device: str = "cpu",
) -> Study:
    """A study of these images.

    Args:
        encoder: of the images; where the configuration begins with the base's own network, that
            base too.
    """
    kept, source = kept_encoding(folder / "encoded", encoder, data), _source(encoder, data)
    if config.unet is None:
        source += f" {encoder.fingerprint()}"
    return Study(folder, config, kept, source, measure, measured, device)


def _source(encoder: Denoiser, data: TrainingSet) -> str:
    return f"{data.fingerprint} {encoder.encoders_fingerprint()}"


def kept_encoding(folder: Path, encoder: Denoiser, data: TrainingSet) -> Encoded:
    """Latents and tokens of a data set, computed once for each encoder and kept in the folder."""
    path = folder / f"{digest(_source(encoder, data))[:32]}.safetensors"
    kept = read_tensors(path)
    if kept is None:
        made = encoded(encoder, data)
        kept = {"x0": made.x0} | ({} if made.tokens is None else {"tokens": made.tokens})
        write_tensors(path, kept, {})
    return Encoded(kept["x0"], kept.get("tokens"))
