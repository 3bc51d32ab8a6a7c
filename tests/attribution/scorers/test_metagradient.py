"""The metagradient of a question is what it loses when an image counts less in the training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.trainings import IMAGES, STEPS, adapters_of, keep_adapters, train_adapters

from headwater import Contribution, Denoiser, Image, Loss, Session, build_index, load_dataset
from headwater.attribution.scorers import metagradient
from headwater.attribution.scorers.gradient import setting_of
from headwater.errors import HeadwaterWarning, MethodError, MismatchError, NonFiniteError
from headwater.methods.table import METHODS
from headwater.models.patches import frozen

METHOD = METHODS["metagradient"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a model, images, adapters and the recording of their training."""
    folder = tmp_path_factory.mktemp("trained")
    train_adapters(folder, recorded=True)
    return folder


def index_of(folder, name, run="run", dtype=torch.float64, **options):
    model = Denoiser.load(
        folder / "model", dtype=dtype, lora=folder / "lora", run=run and folder / run, **options
    )
    data = load_dataset(folder / "images")
    return build_index(model, data, folder / name, method="pixel-cosine")


def value(session, query, denoiser):
    """Half the sum of squared errors, whose gradient a question about a picture is."""
    timesteps = tuple(session.denoiser.schedule.evenly_spaced(10))
    drawer = query.drawer(replace(setting_of(session, METHOD, query), timesteps=timesteps))
    total, count = 0.0, 0
    with frozen(denoiser.network), torch.no_grad():
        for probe in drawer.objectives(_Asked(denoiser), range(query.draws)):
            total, count = total + float(probe[2].sum()), count + len(probe[2])
    return total / count * math.prod(denoiser.latent_shape) / 2


class _Asked:
    """As much of an extractor as a drawer looks at."""

    def __init__(self, denoiser):
        self.denoiser, self.seed = denoiser, 0


def test_it_is_the_change_of_the_loss_with_an_image_s_weight(trained):
    """Trainings by torch's AdamW in which an image counts a little more, and less."""
    session = Session(index_of(trained, "index"))
    query = Image("a red star", trained / "images" / "train-00003.png", draws=2)
    answer = session.attribute(query, method="metagradient")
    for image in range(2):
        ends = []
        for change in (1e-4, -1e-4):
            counts = torch.ones(IMAGES, dtype=torch.float64)
            counts[image] += change
            ends.append(value(session, query, train_adapters(trained, counts=counts)))
        true = -(ends[0] - ends[1]) / 2e-4
        assert answer.scores[image] == pytest.approx(true, rel=1e-4)
        assert abs(true) > 1e-3
    said = answer.provenance["query"]["recorded training"]
    assert said["steps"] == said["derived"] == STEPS
    assert max(said["gradient error"], said["drift"]) < 1e-9
    assert answer.asked.endswith(f"through all {STEPS} steps")
    assert "all draws together" in answer.unsure


def test_a_second_time_it_is_read(trained):
    """By a session that loads no model for it."""
    model = Denoiser.load(trained / "model", lora=trained / "lora", run=trained / "run")
    data = load_dataset(trained / "images")
    index = build_index(model, data, trained / "read", method="trak", timesteps=2)
    query = Image("a red star", trained / "images" / "train-00001.png", draws=2)
    first = Session(index).attribute(query, method="metagradient")
    again = Session.open(trained / "read")
    found = again.attribute(query, method="metagradient")
    assert found.provenance["reused_query_gradient"] and again._denoiser is None
    assert (found.scores == first.scores).all()
    fresh = again.attribute(query, method="metagradient", fresh=True)
    assert not fresh.provenance["reused_query_gradient"]
    assert fresh.scores == pytest.approx(first.scores, rel=1e-9)


def test_outputs_of_a_concept_are_asked(trained):
    """By an index with gradients, whose timesteps they take; images never shown score nothing."""
    model = Denoiser.load(trained / "model", lora=trained / "lora", run=trained / "run")
    data = load_dataset(trained / "images")
    index = build_index(model, data, trained / "trak", method="trak", timesteps=3)
    session, caption = Session(index), index.samples[0].caption
    for question in (Loss, Contribution):
        query = question(caption, "heart", pictures=data, draws=4)
        answer = session.attribute(query, method="metagradient")
        assert answer.provenance["query"]["draws"] == 4
        assert len(set(answer.scores)) == IMAGES


def test_half_precision_comes_near(trained):
    """The model in bfloat16, the adapters' numbers and their steps in float32."""
    query = Image("a red star", trained / "images" / "train-00003.png", draws=2)
    exact = Session(index_of(trained, "index")).attribute(query, method="metagradient")
    half = index_of(trained, "half", dtype=torch.bfloat16)
    found = Session(half).attribute(query, method="metagradient")
    assert 1e-4 < found.provenance["query"]["recorded training"]["gradient error"] < 0.1
    assert np.corrcoef(exact.scores, found.scores)[0, 1] > 0.98


# --- refused --------------------------------------------------------------------------------------


def test_an_index_that_knows_of_no_recording_is_refused(trained):
    session = Session(index_of(trained, "plain", run=None))
    assert "metagradient" not in session.index.methods()
    with pytest.raises(MethodError, match=r"knows of none .* build it again with --run"):
        session.attribute(Image("a red star"), method="metagradient")
    # told of it, the index that is there does
    assert "metagradient" in index_of(trained, "plain").methods()


def test_a_question_without_a_gradient_is_refused(trained, monkeypatch):
    monkeypatch.setattr(metagradient, "mean_row", lambda machine, *_: torch.zeros(machine.dim))
    with pytest.raises(NonFiniteError, match="'the picture' gave an all-zero or NaN gradient"):
        Session(index_of(trained, "index")).attribute(
            Image("a red star", draws=1, seed=9, steps=4), method="metagradient"
        )


def test_adapters_of_another_training_are_refused(trained, tmp_path):
    _, denoiser, _ = adapters_of(trained)  # before the first step
    keep_adapters(denoiser, tmp_path / "lora")
    model = Denoiser.load(trained / "model", lora=tmp_path / "lora", run=trained / "run")
    data = load_dataset(trained / "images")
    index = build_index(model, data, tmp_path / "index", method="pixel-cosine")
    with pytest.raises(MismatchError, match="ends at other weights than this model's"):
        Session(index).attribute(Image("a red star", draws=2, steps=4), method="metagradient")


def test_adapters_at_another_scale_are_refused(trained):
    session = Session(index_of(trained, "scaled", lora_scale=0.5))
    with pytest.raises(MismatchError, match=r"comes out .* of another scale"):
        session.attribute(Image("a red star", draws=2, steps=4), method="metagradient")


def test_a_recording_of_other_images_is_refused(trained, tmp_path):
    from support.tiny import tiny_folder

    model = Denoiser.load(trained / "model", lora=trained / "lora", run=trained / "run")
    data = load_dataset(tiny_folder(tmp_path / "other", 3, "validation"))
    index = build_index(model, data, tmp_path / "index", method="pixel-cosine")
    with pytest.raises(MismatchError, match=r"no image of .* was shown in the recorded training"):
        Session(index).attribute(Image("a red star", draws=2, steps=4), method="metagradient")


def test_images_that_are_not_in_the_index_are_told(trained, tmp_path):
    model = Denoiser.load(trained / "model", lora=trained / "lora", run=trained / "run")
    data = load_dataset(trained / "images").take(range(3))
    index = build_index(model, data, tmp_path / "index", method="pixel-cosine")
    with pytest.warns(HeadwaterWarning, match="2 images that the training saw are not in the in"):
        answer = Session(index).attribute(
            Image("a red star", draws=2, steps=4), method="metagradient"
        )
    assert len(answer.scores) == 3
