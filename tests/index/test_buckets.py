"""Aspect buckets: each picture as it is alone at its bucket's size, and all of them one index."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from support.tiny import tiny_pipeline
from support.tiny_cross import dit, hunyuan_dit, pixart_with_sizes
from support.tiny_joint import flux
from support.tiny_unets import sdxl

from headwater import Concept, Denoiser, Image, Session, build_index, from_images
from headwater.attribution.scorers.unlearned.natural_gradient import Loss
from headwater.attribution.scorers.unlearned.unlearning import training_losses
from headwater.errors import MethodError, MismatchError, ModelError, ParameterError
from headwater.features.batch import training_batches
from headwater.index.config import plan
from headwater.index.machines import extractor

BUCKETS = "16x16,16x24,24x16"
SHAPES = [(30, 30), (20, 33), (33, 21), (16, 24)]
USED = {(16, 16): [0], (16, 24): [1, 3], (24, 16): [2]}
CAPTIONS = ["a red star", "a blue fish", "a red fish", "a star"]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [PILImage.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)) for shape in SHAPES]


@pytest.fixture(scope="module")
def data(images):
    return from_images(images, CAPTIONS)


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model, buckets=BUCKETS)


BUILDERS = {"unet": tiny_pipeline, "sdxl": sdxl, "flux": flux, "pixart": pixart_with_sizes,
            "hunyuan-dit": hunyuan_dit}  # fmt: skip


@pytest.mark.parametrize("name", BUILDERS)
def test_a_row_is_that_of_the_picture_alone_at_its_size(name, images, tmp_path):
    pipe = Denoiser.load(BUILDERS[name](tmp_path), resolution=16).pipe

    def rows(which, **read):
        read = Denoiser(pipe, dtype=torch.float64, **read)
        machine = extractor(read, plan(read, method="trak", timesteps=2, dim=32))
        parts = [images[i] for i in which], [[CAPTIONS[i]] for i in which], [str(i) for i in which]
        return machine.image_rows(*parts)

    ours = rows(range(4), resolution=16, buckets=BUCKETS)
    assert Denoiser(pipe, resolution=16, buckets=BUCKETS).by_size(images) == USED
    for size, which in USED.items():
        exact = rows(which, resolution=size)
        torch.testing.assert_close(ours.features[which], exact.features, rtol=1e-6, atol=0)
        assert ours.residuals is not None
        torch.testing.assert_close(ours.residuals[which], exact.residuals, rtol=1e-6, atol=0)


def test_the_larger_model_is_told_the_buckets_size(images, tmp_path):
    denoiser = Denoiser.load(sdxl(tmp_path), buckets=BUCKETS)
    captions = [[caption] for caption in CAPTIONS]
    told = {}
    for own, batch in training_batches(denoiser, images, captions, "abcd"):
        assert batch.condition is not None
        told |= zip(own, batch.condition.tensors["time_ids"].tolist(), strict=True)
    assert told[0] == [30, 30, 0, 0, 16, 16] and told[3] == [16, 24, 0, 0, 16, 24]
    assert told[1] == [20, 33, 0, 1, 16, 24] and told[2] == [33, 21, 0, 0, 24, 16]


@pytest.fixture(scope="module")
def index(denoiser, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("buckets")
    return build_index(denoiser, data, folder / "index", encodings=folder / "kept", **HOW)


HOW: dict[str, Any] = {"method": "trak", "timesteps": 2, "dim": 32, "batch_size": 3}


def rows_of(index):
    return torch.cat(list(index.blocks()))


@pytest.mark.parametrize("kept", [True, False])
def test_it_is_one_index_in_whatever_batches(index, denoiser, data, tmp_path, kept):
    how: dict[str, Any] = {"encodings": index.path.parent / "kept"} if kept else {"batch_size": 1}
    other = build_index(denoiser, data, tmp_path / "index", **HOW | how)
    torch.testing.assert_close(rows_of(other), rows_of(index), rtol=0.01, atol=1e-4)
    torch.testing.assert_close(other.residuals(), index.residuals(), rtol=1e-4, atol=0)
    assert index.manifest.model["options"] == {"buckets": BUCKETS}
    assert len(list((index.path.parent / "kept").rglob("latents/*/*.safetensors"))) == 4


def test_it_is_asked(index):
    session = Session(index)
    star = Concept("a red star", "star", draws=2)
    for question, method in ((Image("a red star", steps=2, draws=2), "trak"), (star, None)):
        scores = session.attribute(question, method=method or "concept-trak-a").scores
        assert scores.shape[-1] == 4 and np.isfinite(np.asarray(scores)).all()


def test_losses_of_training_are_those_of_its_rows(index, denoiser):
    """Unlearning looks at each picture as it was trained."""
    loss = Loss(denoiser, index.recipe.timesteps)
    losses = training_losses(Session(index), loss)
    torch.testing.assert_close(losses, index.residuals().mean(1), rtol=1e-4, atol=0)


def test_without_buckets_it_is_another_model(index, denoiser, data):
    plain = Denoiser(denoiser.pipe)
    assert plain.fingerprint() != denoiser.fingerprint()
    with pytest.raises(MismatchError):
        build_index(plain, data, index.path, **HOW)


def test_what_is_refused(denoiser, data, tmp_path):
    for asked in ("wide", "0", "16x", "64", "16x16x16", "-8"):
        with pytest.raises(ParameterError, match=rf"^--buckets '{asked}' must be STEP or"):
            Denoiser(denoiser.pipe, buckets=asked)
    with pytest.raises(ModelError, match=r"^pictures of 16 x 15 .*: .* takes multiples of 2$"):
        Denoiser(denoiser.pipe, buckets="16x16,16x15")
    with pytest.raises(ParameterError, match=r"^--resolution 'wide' must be a number"):
        Denoiser(denoiser.pipe, resolution="wide")
    with pytest.raises(ModelError, match=r"^pictures of 24 x 16 .*: DiTPipeline takes squares al"):
        Denoiser.load(dit(tmp_path), resolution=16, buckets=BUCKETS)
    with pytest.raises(MethodError, match="--buckets is of how gradients are made"):
        build_index(denoiser, data, tmp_path / "index", method="pixel-cosine")
