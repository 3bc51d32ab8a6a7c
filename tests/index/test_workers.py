"""An index by workers: the same files, what is missing and no more, and what they cannot do."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.command_line import FAST, REMARKS, assert_refused, shell
from support.command_line import headwater as command
from support.index_files import RECIPE, files, rows, state
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Denoiser, load_dataset
from headwater.data.memory import from_images
from headwater.errors import BadImageError, MethodError, MismatchError, ParameterError
from headwater.index.build import build_index
from headwater.index.index import Index
from headwater.runtime.executor import Executor

TWO = Executor(jobs=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("engine") / "images", 110)  # three shards


@pytest.fixture(scope="module")
def denoiser(tiny_model) -> Denoiser:
    return Denoiser.load(tiny_model, "cpu")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, denoiser, images) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "index"
    build_index(denoiser, load_dataset(images), folder, batch_size=16, **RECIPE)
    return folder


def test_workers_make_what_is_missing(tmp_path, denoiser, images, alone):
    out = Path(shutil.copytree(alone, tmp_path / "index"))
    features = out / "features"
    (features / "00001.safetensors").unlink()
    before = state(features)
    build_index(denoiser, load_dataset(images), out, batch_size=16, executor=TWO, **RECIPE)
    assert files(out) == files(alone) and before.items() <= state(features).items()


def test_workers_fit_a_curvature(tmp_path, denoiser, images):
    """As an index has where no method is named."""
    data, options = load_dataset(images).first(40), dict(timesteps=1, dim=64, batch_size=16)
    one = build_index(denoiser, data, tmp_path / "one", **options)
    two = build_index(denoiser, data, tmp_path / "two", executor=TWO, **options)
    assert two.recipe == one.recipe and two.recipe.curvature == "ekfac"
    assert torch.equal(rows(one.path), rows(two.path))


def test_workers_of_the_first_images_and_of_checkpoints(tmp_path, denoiser, images):
    data = load_dataset(images).first(40)
    other = tiny_pipeline(tmp_path / "other", seed=1)
    more = dict(checkpoints=[other], batch_size=16, encodings=tmp_path / "encoded", **RECIPE)
    one = build_index(denoiser, data, tmp_path / "one", **more)
    two = build_index(denoiser, data, tmp_path / "two", executor=TWO, **more)
    assert torch.equal(rows(one.path), rows(two.path)) and len(two) == 40
    kept = [folder.path / "checkpoints" / "0" for folder in (one, two)]
    assert torch.equal(*map(rows, kept)) and Index.open(kept[1])
    assert not torch.equal(rows(kept[1]), rows(two.path))


def test_a_bad_image_stops_workers_and_leaves_what_can_be_gone_on_with(tmp_path, denoiser):
    folder = tiny_folder(tmp_path / "images", 200)  # four shards
    broken = sorted(folder.glob("*.png"))[3]
    broken.write_bytes(b"no picture")
    with pytest.raises(BadImageError, match=broken.name):
        build_index(denoiser, load_dataset(folder), tmp_path / "out", executor=TWO, **RECIPE)
    written = list((tmp_path / "out").rglob("*.safetensors"))
    assert len(written) < 4 and bool(written) == (tmp_path / "out").exists()
    built = build_index(denoiser, load_dataset(folder), tmp_path / "out", skip_bad=True, **RECIPE)
    assert len(built) == 199 and built.manifest.skipped == [broken.name]


def test_what_workers_cannot_load(tmp_path, denoiser, images):
    out, data = tmp_path / "index", load_dataset(images)
    with pytest.raises(ParameterError, match="save what is in memory"):
        build_index(Denoiser(denoiser.pipe, "", "cpu"), data, out, executor=TWO, **RECIPE)
    memory = from_images([Image.new("RGB", (16, 16))], ["one"])
    with pytest.raises(ParameterError, match="save what is in memory"):
        build_index(denoiser, memory, out, executor=TWO, **RECIPE)
    with pytest.raises(MismatchError, match="save them as a folder of their own"):
        build_index(denoiser, data.take([3, 1]), out, executor=TWO, **RECIPE)
    with pytest.raises(MethodError, match="--jobs is of how gradients are made"):
        build_index(denoiser, data, out, executor=TWO, method="pixel-cosine")
    assert not out.exists()


def test_workers_of_the_command_write_the_same_index(tmp_path, tiny_model, images, alone):
    """Where Ray is installed, on a cluster of its own, which the command makes and ends."""
    engine, jobs = ("local", 2) if find_spec("ray") is None else ("ray", 1)
    out = tmp_path / "index"
    options = [*FAST, "--batch-size", 16, "--engine", engine, "--jobs", jobs]
    made = shell("index", tiny_model, images, out, *options)
    assert made.code == 0, made.err
    assert engine == "ray" or REMARKS.fullmatch(made.err)  # of itself Ray may say something
    assert made.out == f"110 rows of 64 features in {out}\n"
    assert files(out) == files(alone)


def test_what_the_command_refuses(tmp_path, tiny_model, images):
    for options, said in (
        (["--engine", "spark"], "--engine 'spark' is not one of local, ray"),
        (["--jobs", 0], "--jobs 0 must be at least 1"),
        (["--engine", "ray", "--method", "pixel-cosine"], "--engine is of how gradients are made"),
    ):
        args = ("index", tiny_model, images, tmp_path / "index", *options)
        assert_refused(command(*args), said)
    assert not (tmp_path / "index").exists()
