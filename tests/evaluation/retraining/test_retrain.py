"""Many models: each trained once, and found again by all that its numbers depend on."""

import os
import time

import pytest
import torch
from safetensors import SafetensorError
from support.studies import captioned, encode_tiny, mean_weight, study
from support.studies import data as data  # a fixture
from support.tiny import tiny_pipeline

from headwater import Denoiser, load_dataset
from headwater.errors import MismatchError, ResourceError
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.models import train
from headwater.evaluation.retraining.networks import new_pipeline
from headwater.evaluation.retraining.retrain import (
    Task,
    cached_encoding,
    digest,
    retrain,
    retrain_all,
    study_of,
)


@pytest.fixture(scope="module")
def words(tiny_model, tiny_images):
    return encode_tiny(tiny_model, tiny_images)


def test_models_are_trained_once_and_kept_where_wanted(tmp_path, data, monkeypatch):
    tasks = [Task("full", tuple(range(10)), kept=True), Task("half", (1, 3, 5))]
    mine = study(tmp_path, data)
    found = retrain(mine, tasks)
    assert found[0] != found[1] and len(found) == 2
    loaded = Denoiser.load(mine.model(tasks[0]))
    assert mean_weight(loaded) == found[0]
    assert not mine.model(tasks[1]).exists() and not list((tmp_path / "training").iterdir())
    monkeypatch.setattr(
        "headwater.evaluation.retraining.retrain.train", None
    )  # nothing is trained again
    assert retrain(mine, tasks[::-1]) == found[::-1]
    for other, name in (
        (study(tmp_path, data, steps=3), "config"),
        (study(tmp_path, data, factor=2.0), "measured"),
        (study(tmp_path, data, source="others"), "data"),
    ):
        with pytest.raises(MismatchError, match=f"'{name}' differs: give another folder"):
            retrain(other, tasks)
    with pytest.raises(MismatchError, match="'rows' differs"):
        retrain(mine, [Task("half", (1, 3))])


def test_models_of_several_studies_are_trained_as_those_of_one(tmp_path, data):
    """Each is measured by its own study's measure."""
    one, double = study(tmp_path, data), study(tmp_path, data, factor=2.0)
    first, others = [Task("a", (0, 1, 2)), Task("b", (3, 4))], [Task("c", (3, 4))]
    found = retrain_all([(one, first), (double, others)])
    assert found[0] == retrain(study(tmp_path / "alone", data), first)
    assert found[1] == [{"mean": [2 * found[0][1]["mean"][0]]}]
    assert retrain_all([(double, others), (one, first)]) == found[::-1]


def test_an_encoding_is_kept_for_its_encoder(tiny_model, tiny_images, tmp_path, words, monkeypatch):
    denoiser, data = Denoiser.load(tiny_model), load_dataset(str(tiny_images))
    assert torch.equal(cached_encoding(tmp_path, denoiser, data).x0, words.x0)
    monkeypatch.setattr(
        "headwater.evaluation.retraining.retrain.encode_data", None
    )  # nothing is encode_data again
    kept = cached_encoding(tmp_path, denoiser, data)
    assert torch.equal(kept.x0, words.x0) and kept.captions == words.captions
    other = Denoiser(new_pipeline(captioned(tiny_model), 1), "", "cpu")
    with pytest.raises(TypeError):  # by another encoder it is
        cached_encoding(tmp_path, other, data)


def test_a_network_that_training_begins_with_is_part_of_what_it_is_of(
    tiny_model, tiny_images, tmp_path
):
    data, other = load_dataset(str(tiny_images)), tiny_pipeline(tmp_path / "other", seed=1)
    found = {}
    for network in (None, {}):
        for base in (tiny_model, other):  # of the same encoders
            config = ModelConfig((Phase(1),), base=str(base), network=network, text_encoder=None)
            encoder = Denoiser(new_pipeline(config, 0), "", "cpu")
            made = study_of(tmp_path, config, data, encoder)
            found.setdefault(network is None, set()).add(made.source)
    assert len(found[True]) == 2 and len(found[False]) == 1


def test_what_was_begun_goes_on_for_the_same_task_alone(tmp_path, data, monkeypatch):
    """A checkpoint of other rows is not taken up."""
    alone = retrain(study(tmp_path / "alone", data, steps=4), [Task("half", (3, 4, 5))])

    def stopped(*args, **more):
        train(*args, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("headwater.evaluation.retraining.retrain.train", stopped)
        with pytest.raises(KeyboardInterrupt):
            retrain(study(tmp_path, data, steps=4), [Task("half", (0, 1, 2))])
    assert list((tmp_path / "training").rglob("*.safetensors"))
    assert retrain(study(tmp_path, data, steps=4), [Task("half", (3, 4, 5))]) == alone


def test_a_kept_model_without_its_numbers_is_made_again(tmp_path, data):
    mine, tasks = study(tmp_path, data), [Task("full", (0, 1, 2), kept=True)]
    found = retrain(mine, tasks)
    (tmp_path / "outputs" / "full.json").unlink()
    assert retrain(mine, tasks) == found


def test_what_a_kill_left_of_a_task_goes_with_the_next_run(tmp_path, data):
    """Before its training was removed, and while its numbers were written; of another all stays."""
    mine, (task, other) = study(tmp_path, data), [Task("half", (1, 3, 5)), Task("half-b", (2, 4))]
    found = retrain(mine, [task])
    left = tmp_path / "outputs" / "half.json.0123456789ab.part"
    scratch, others = (
        tmp_path / "training" / f"{each.name}-{digest(mine.key(each))[:8]}"
        for each in (task, other)
    )
    for path in (left, scratch / "0.safetensors", others / "0.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 90,) * 2)
    assert retrain(mine, [task]) == found
    assert not left.exists() and [*(tmp_path / "training").iterdir()] == [others]


def test_a_full_disk_ends_a_training_in_one_line(tmp_path, data, monkeypatch):
    """As Rust says it; and where a library writes the model that is kept."""
    task = Task("full", (0, 1, 2), kept=True)

    def full(*args, **options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    for name in ("trainer.save_file", "retrain.save_pipeline"):
        with monkeypatch.context() as patched:
            patched.setattr(f"headwater.evaluation.retraining.{name}", full)
            with pytest.raises(ResourceError, match=r"no space left to write .*: free some"):
                retrain(study(tmp_path, data), [task])
    assert retrain(study(tmp_path, data), [task]) == retrain(study(tmp_path / "b", data), [task])
    assert list(tmp_path.rglob("*.part")) == []
