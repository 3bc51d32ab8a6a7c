"""The curvature of an index: what is there is not fitted again, whoever fits, and damage."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.index_files import rows
from support.tiny import tiny_folder

from headwater import Denoiser, Index, Session, load_dataset
from headwater.curvature import factors
from headwater.errors import MethodError, ParameterError, StoreError
from headwater.index.build import build_index
from headwater.index.building.workers import BuildOptions, part_doer, shard_writer
from headwater.index.config import plan
from headwater.index.curvature import fit as fit_module
from headwater.index.curvature import fitting
from headwater.index.curvature.fit import fit_of
from headwater.index.curvature.fitting import fit_curvature
from headwater.queries.image import Image
from headwater.storage.files import read_tensors_and_metadata
from headwater.storage.manifest import read_manifest, write_manifest

# each has its own trial, whose work must not count
pytestmark = pytest.mark.usefixtures("memory_is_tried")

RECIPE = {"method": "ekfac", "timesteps": 1, "dim": 64, "batch_size": 4}
ROWS, PART = 10, 4  # three parts of them


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("curvature") / "images", ROWS)


@pytest.fixture(scope="module")
def denoiser(tiny_model) -> Denoiser:
    return Denoiser.load(tiny_model, "cpu")


@pytest.fixture(autouse=True)
def several_parts(monkeypatch):
    monkeypatch.setattr(fit_module, "PART_IMAGES", PART)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, denoiser, images) -> Path:
    folder = tmp_path_factory.mktemp("curvature") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "PART_IMAGES", PART)
        build_index(denoiser, load_dataset(images), folder, **RECIPE)
    return folder


def test_what_lies_there(alone):
    found = sorted(path.name for path in (alone / "curvature").iterdir())
    assert found == ["bases.safetensors", "moments.safetensors"]
    recipe = json.loads((alone / "index.json").read_text())["recipe"]
    assert (recipe["curvature"], recipe["curvature_targets"]) == ("ekfac", "model")


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6, 7])
def test_a_fit_that_was_stopped_goes_on(tmp_path, denoiser, images, alone, after, monkeypatch):
    """Three parts, the bases, three parts, the moments: after each of them."""
    written, write = [], fit_module.Fit.write

    def stopping(self, name, tensors):
        write(self, name, tensors)
        written.append(name)
        if len(written) == after:
            raise Stop

    out = tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr(fit_module.Fit, "write", stopping)
        with pytest.raises(Stop):
            build_index(denoiser, load_dataset(images), out, **RECIPE)
    again: list[str] = []
    monkeypatch.setattr(
        fit_module.Fit,
        "write",
        lambda self, name, tensors: (again.append(name), write(self, name, tensors)),
    )
    build_index(denoiser, load_dataset(images), out, **RECIPE)
    assert not set(written) & set(again) and len(written) + len(again) == 8
    assert_same(out, alone)


def test_workers_fit_the_same(tmp_path, denoiser, images, alone):
    """What a worker does, which knows nothing but the folder: parts of both passes, and rows."""
    out, how = Path(shutil.copytree(alone, tmp_path / "index")), BuildOptions(batch_size=4)
    recipe = {name: value for name, value in RECIPE.items() if name != "batch_size"}
    fit = fit_of(out, read_manifest(out), plan(denoiser, **recipe))
    (out / "curvature" / "moments.safetensors").unlink()
    part = part_doer(out, how, "cpu", wait=False)
    for number in range(3):
        assert part(("moments", number)) == number
    asked: list[int] = []
    layers = denoiser.layers("attn2")
    fit_curvature(fit, layers, lambda name, left, wait: asked.extend(left) or asked)
    assert not asked  # all parts were there
    shard_writer(out, how, "cpu", wait=False)((0, range(ROWS)))
    assert_same(out, alone)


def assert_same(one: Path, other: Path) -> None:
    """The same files but for the order of what they say of themselves; answers do not count."""
    named = {path.relative_to(other) for path in other.rglob("*") if path.is_file()}
    named = {path for path in named if path.parts[0] != "queries"}
    for path in named:
        ours, theirs = (read_tensors_and_metadata(folder / path) for folder in (one, other))
        if path.suffix != ".safetensors" or theirs is None:
            assert (one / path).read_bytes() == (other / path).read_bytes()
        else:
            assert ours is not None and ours[1] == theirs[1]
            assert all(torch.equal(ours[0][key], value) for key, value in theirs[0].items())
    assert named <= {path.relative_to(one) for path in one.rglob("*")}


@pytest.mark.parametrize("name", ["bases", "moments"])
def test_a_damaged_file_is_named_and_mended(tmp_path, denoiser, images, alone, name):
    out = Path(shutil.copytree(alone, tmp_path / "index"))
    file = out / "curvature" / f"{name}.safetensors"
    held = bytearray(file.read_bytes())
    held[-5] ^= 1
    file.write_bytes(held)
    query = Image("a red star", images / "train-00003.png", draws=2)
    with pytest.raises(StoreError, match=f"{name}.safetensors is missing, damaged, or of a"):
        Session.open(out).attribute(query)
    build_index(denoiser, load_dataset(images), out, **RECIPE)
    assert_same(out, alone)


def lying(folder: Path, name: str, change) -> None:
    """Change the tensors of a file of the curvature, all checksums being right."""
    index = Index.open(folder)
    fit = fit_of(folder, index.manifest, index.recipe)
    fit.write(name, change(dict(fit.read(name))))
    write_manifest(folder, replace(index.manifest, metric=fit.digest()))


def of_first(tensors, change):
    """The same with another first tensor that a question needs; None is without it."""
    name = min(name for name in tensors if not name.endswith("|values"))
    changed = change(tensors.pop(name))
    return tensors if changed is None else {**tensors, name: changed}


@pytest.mark.parametrize("name", ["bases", "moments"])
@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: None,
        lambda tensor: tensor[1:],
        lambda tensor: tensor[None],
        lambda tensor: tensor.double(),
        lambda tensor: tensor.long(),
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: tensor.fill_(float("nan")),
    ],
    ids=["lost", "cut", "another shape", "float64", "integers", "complex", "NaN"],
)
def test_a_curvature_of_a_stranger_is_refused(tmp_path, images, alone, name, change):
    folder = Path(shutil.copytree(alone, tmp_path / "index"))
    lying(folder, name, lambda tensors: of_first(tensors, change))
    query = Image("a red star", images / "train-00003.png", draws=2)
    with pytest.raises(StoreError, match=r"no curvature of the model's .*: remove it, and `headw"):
        Session.open(folder).attribute(query)


def test_sides_of_large_models_are_cut_into_blocks_that_fit(
    tmp_path, denoiser, images, alone, monkeypatch
):
    """What is announced is what then lies there, and a question is answered from it."""
    monkeypatch.setattr(factors, "MOST_NUMBERS", 3_000)
    index = build_index(denoiser, load_dataset(images), tmp_path / "index", **RECIPE)
    layers = denoiser.layers(index.recipe.parameters).values()
    fit = fit_of(index.path, index.manifest, index.recipe)
    numbers = sum(value.nelement() for name in fit_module.RESULTS.values()
                  for value in fit.read(name).values())  # fmt: skip
    assert fit_module.fit_bytes(index.recipe, layers) == 4 * numbers
    vectors = {k: v for k, v in fit.read("bases").items() if k.endswith("vectors")}
    assert sum(v.nelement() for v in vectors.values()) <= 3_000
    assert max(map(len, vectors.values())) <= factors.widest(layers) < factors.SIDE
    assert not torch.allclose(rows(index.path), rows(alone), rtol=0.01)
    query = Image(file=next(images.glob("*.png")), draws=2)
    scores = torch.as_tensor(Session(index).attribute(query).scores)
    assert scores.isfinite().all() and scores.std() > 0


def test_kfac_passes_once_over_the_images_where_every_layer_has_sides(
    tmp_path, denoiser, images, monkeypatch
):
    passes, whole = [], fitting._do_parts
    monkeypatch.setattr(
        fitting,
        "_do_parts",
        lambda fit, name, work: (passes.append(name), whole(fit, name, work))[1],
    )
    data = load_dataset(images).first(8)
    for parameters in ("attn2", r"norm|attn2"):
        options = {**RECIPE, "method": "kfac", "parameters": parameters}
        build_index(denoiser, data, tmp_path / parameters.replace("|", ""), **options)
    assert passes == ["factors", "factors", "moments"]


def test_targets_are_of_the_model_or_of_the_data(tmp_path, denoiser, images, alone):
    data = load_dataset(images)
    options = {**RECIPE, "curvature_targets": "data"}
    index = build_index(denoiser, data, tmp_path / "index", **options)
    assert not torch.allclose(rows(index.path), rows(alone), rtol=0.1)


def test_what_a_plan_refuses(denoiser):
    with pytest.raises(ParameterError, match="--curvature-targets 'mine' is not one of model, dat"):
        plan(denoiser, method="ekfac", curvature_targets="mine")
    with pytest.raises(MethodError, match="is for methods with a curvature; trak has none"):
        plan(denoiser, method="trak", curvature_targets="data")
    with pytest.raises(ParameterError, match="--projection factored never forms the gradient"):
        plan(denoiser, method="ekfac", projection="factored")


def test_an_index_without_a_curvature_says_nothing_of_it(denoiser):
    assert "curvature" not in plan(denoiser, method="trak").facts()
