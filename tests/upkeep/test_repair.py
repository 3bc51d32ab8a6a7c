"""An index read through and mended: whatever is lost comes back, and nothing else is computed."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.command_line import headwater
from support.disks import READ_ONLY, read_only
from support.index_files import files, rows, state
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Concept, Denoiser, Session, build_index, load_dataset
from headwater.errors import MismatchError, ModelError, StoreError
from headwater.storage.claims import building
from headwater.storage.manifest import read_manifest, write_manifest
from headwater.storage.shards import shard_name
from headwater.upkeep import repair as repairing
from headwater.upkeep.repair import repair
from headwater.upkeep.verify import Finding, verify

RECIPE = {"timesteps": 1, "dim": 64}
SHARDS = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("upkeep") / "images", 64 * (SHARDS - 1) + 9)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model, images) -> Path:
    """An index of three shards, that was asked once."""
    folder = tmp_path_factory.mktemp("upkeep") / "index"
    build_index(Denoiser.load(tiny_model), load_dataset(images), folder, method="trak", **RECIPE)
    Session.open(folder).attribute(Concept("a red star", "star", draws=1, context="prompt"))
    return folder


@pytest.fixture
def index(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "index"))


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """Names of the shards that are written."""
    from headwater.storage import shards

    names, real = [], shards.save_file

    def save_file(tensors, path, metadata):
        names.append(path.name.partition(".")[0])
        real(tensors, path, metadata)

    monkeypatch.setattr(shards, "save_file", save_file)
    return names


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def features_of(folder: Path) -> dict[str, bytes]:
    """What an index holds but for caches."""
    return {name: data for name, data in files(folder).items() if "queries" not in name
            and "kernels" not in name}  # fmt: skip


def test_what_is_whole_stays_as_it_is(index):
    before = state(index)
    assert verify(index) == []
    repair(index)
    assert state(index) == before


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", ["index.json", "samples.parquet", "features/00001.safetensors"])
def test_any_file_comes_back(index, whole, computed, name, damage):
    damage(index / name)
    what = "is missing" if damage is Path.unlink else "is damaged"
    needs = {"i": "the shards", "s": "the images", "f": "the model and the images"}[name[0]]
    assert verify(index) == [Finding(name, what, needs)]
    said = []
    repair(index, note=said.append)
    assert verify(index) == [] and features_of(index) == features_of(whole)
    assert computed == (["00001"] if name.startswith("features") else []) and said


@pytest.mark.parametrize("name", ["index.json", "samples.parquet"])
def test_what_the_shards_and_images_say_needs_no_model(tmp_path, tiny_model, name):
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    images, folder = tiny_folder(tmp_path / "images", 10), tmp_path / "index"
    build_index(Denoiser.load(model), load_dataset(images), folder, method="ekfac", **RECIPE)
    before = files(folder)
    (folder / name).unlink()
    shutil.rmtree(model)
    repair(folder)
    assert files(folder) == before


@pytest.mark.parametrize("number", range(SHARDS))
def test_all_but_one_shard(index, whole, computed, number):
    """Which says what the index was."""
    kept = f"{number:05d}.safetensors"
    for path in [*index.rglob("*.safetensors"), index / "index.json", index / "samples.parquet"]:
        if path.name != kept:
            path.unlink()
    lost = [shard_name(other) for other in range(SHARDS) if other != number]
    assert [finding.file for finding in verify(index)] == ["index.json", *lost, "samples.parquet"]
    repair(index)
    assert features_of(index) == features_of(whole) and len(computed) == SHARDS - 1


def test_caches_that_are_damaged_go(index, computed):
    caches = [*index.glob("queries/*.safetensors"), *index.glob("kernels/*.safetensors")]
    assert len(caches) >= 2
    for path in caches:
        flip(path)
    found = verify(index)
    assert {f.file for f in found} == {str(path.relative_to(index)) for path in caches}
    assert {f.needs for f in found} == {"nothing"}
    repair(index)
    assert verify(index) == [] and not any(path.exists() for path in caches) and not computed


def test_an_unfinished_index_is_finished(index, whole, computed):
    write_manifest(index, replace(read_manifest(index), complete=False, samples_sha256="",
                                  shards=()))  # fmt: skip
    (index / "samples.parquet").unlink()
    (index / "features/00002.safetensors").unlink()
    assert [f.what for f in verify(index)][-1] == "is unfinished"
    repair(index)
    assert features_of(index) == features_of(whole) and computed == ["00002"]


def test_a_further_checkpoint_is_mended_too(tmp_path, tiny_model):
    other, images = tiny_pipeline(tmp_path / "other", seed=1), tiny_folder(tmp_path / "few", 70)
    folder = tmp_path / "index"
    build_index(
        Denoiser.load(tiny_model), load_dataset(images), folder,
        method="trak", checkpoints=[other], **RECIPE,
    )  # fmt: skip
    before = rows(folder / "checkpoints/0")
    for name in ("index.json", "features/00000.safetensors"):
        (folder / "checkpoints/0" / name).unlink()
    assert [finding.file for finding in verify(folder)] == [
        "checkpoints/0/index.json", "checkpoints/0/features/00000.safetensors",
    ]  # fmt: skip
    repair(folder)
    assert verify(folder) == [] and (rows(folder / "checkpoints/0") == before).all()
    shutil.rmtree(folder / "checkpoints/0")
    with pytest.raises(StoreError, match="was never begun: run its `headwater index` command"):
        repair(folder)


# --- the metric of rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False], ids=["same numbers", "other signs"])
def test_rows_follow_a_curvature_that_is_fitted_anew(tmp_path, tiny_model, computed, same):
    """Where it comes out otherwise, as on another device, rows of the old one are not mixed in."""
    from headwater.index.curvature import fitting

    images, folder = tiny_folder(tmp_path / "images", 70), tmp_path / "index"
    build_index(Denoiser.load(tiny_model), load_dataset(images), folder, method="ekfac", **RECIPE)
    old, query = rows(folder), Concept("a red star", "star", draws=1, context="prompt")
    scores = Session.open(folder).attribute(query).scores
    flip(folder / "curvature/bases.safetensors")
    assert [finding.file for finding in verify(folder)] == ["curvature/bases.safetensors"]
    with pytest.raises(StoreError, match=r"bases\.safetensors is missing, damaged, or of a fit"):
        Session.open(folder).attribute(query, fresh=True)
    computed.clear()
    with pytest.MonkeyPatch.context() as patch:
        real = fitting.eigenbases
        turned = lambda *args: {name: -value if "inputs|0|vec" in name else value  # noqa: E731
                                for name, value in real(*args).items()}  # fmt: skip
        patch.setattr(fitting, "eigenbases", real if same else turned)
        repair(folder)
    assert verify(folder) == []
    assert len(computed) == (0 if same else 2) and (rows(folder) == old).all() == same
    again = Session.open(folder).attribute(query).scores  # not by rows of the old metric
    assert abs(again - scores).max() < 2e-2 * abs(scores).max()


def test_rows_of_another_curvature_are_refused(tmp_path, tiny_model):
    images, folder = tiny_folder(tmp_path / "images", 10), tmp_path / "index"
    build_index(Denoiser.load(tiny_model), load_dataset(images), folder, method="ekfac", **RECIPE)
    write_manifest(folder, replace(read_manifest(folder), metric="0" * 32))
    assert [finding.file for finding in verify(folder)] == ["curvature"]
    with pytest.raises(StoreError, match="is not what the rows were made with: `headwater repair"):
        Session.open(folder).attribute(Concept("a red star", "star", draws=1, context="prompt"))
    repair(folder)
    assert verify(folder) == [] and read_manifest(folder).metric != "0" * 32


def test_files_of_a_curvature_in_each_other_s_place(tmp_path, tiny_model):
    images, folder = tiny_folder(tmp_path / "images", 10), tmp_path / "index"
    build_index(Denoiser.load(tiny_model), load_dataset(images), folder, method="ekfac", **RECIPE)
    before, places = (
        rows(folder),
        [folder / f"curvature/{n}.safetensors" for n in ("bases", "moments")],
    )
    one, other = (place.read_bytes() for place in places)
    for place, data in zip(places, (other, one), strict=True):
        place.write_bytes(data)
    assert [finding.what for finding in verify(folder)] == ["is damaged"] * 2
    repair(folder)
    assert verify(folder) == [] and (rows(folder) == before).all()


# --- what cannot be mended ------------------------------------------------------------------------


def test_what_is_no_index(tmp_path):
    for action in (verify, repair):
        with pytest.raises(StoreError, match="no index at"):
            action(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shards_of_two_indexes(index, tiny_model, images, tmp_path):
    other = tmp_path / "other"
    build_index(
        Denoiser.load(tiny_model), load_dataset(images), other,
        method="trak", **(RECIPE | {"seed": 7}),
    )  # fmt: skip
    shutil.copy(other / "features/00001.safetensors", index / "features/00001.safetensors")
    (index / "index.json").unlink()
    with pytest.raises(StoreError, match="the shards are of 2 different indexes: run the"):
        repair(index)


def test_shards_that_say_nothing(index):
    for path in index.glob("features/*.safetensors"):
        flip(path)
    (index / "index.json").unlink()
    with pytest.raises(StoreError, match="the shards say nothing of it: run the `headwater index`"):
        repair(index)


@pytest.mark.parametrize("gone", ["model", "images", "an image"])
def test_what_is_needed_is_named(tmp_path, tiny_model, gone):
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    images, folder = tiny_folder(tmp_path / "images", 10), tmp_path / "index"
    build_index(Denoiser.load(model), load_dataset(images), folder, method="trak", **RECIPE)
    (folder / "features/00000.safetensors").unlink()
    if gone == "an image":
        shutil.copy(images / "train-00001.png", images / "train-00000.png")
    else:
        shutil.rmtree(model if gone == "model" else images)
    error = {"model": ModelError, "an image": MismatchError}.get(gone, Exception)
    with pytest.raises(error) as caught:
        repair(folder)
    assert "\n" not in str(caught.value)
    assert str(model if gone == "model" else images) in str(caught.value)


def test_an_index_that_is_written_is_left_alone(index, monkeypatch):
    cut(index / "index.json")
    original = repairing._mend_files

    def within(*args):
        with pytest.raises(StoreError, match=rf"being written by process {os.getpid()} on .*wait"):
            repair(index)
        return original(*args)

    monkeypatch.setattr(repairing, "_mend_files", within)
    repair(index)
    with building(index):
        with pytest.raises(StoreError, match=rf"being written by process {os.getpid()} on .*wait"):
            repair(index)


# --- the command line -----------------------------------------------------------------------------


def test_the_commands(index, whole):
    assert headwater("verify", index).out == f"{index} is whole\n"
    flip(index / "features/00001.safetensors")
    result = headwater("verify", index)
    assert result.code == 2 and result.out == (
        "features/00001.safetensors is damaged; it is made again of the model and the images\n"
    )
    assert "1 file(s)" in result.err and f"`headwater repair {index}` mends it" in result.err
    (found,) = json.loads(headwater("verify", index, "--json").out)
    assert found["file"] == "features/00001.safetensors" and found["what"] == "is damaged"
    result = headwater("repair", index)
    assert (result.code, result.out) == (0, f"{index} is whole\n")
    assert "computing what is lost, by " in result.err
    assert features_of(index) == features_of(whole)


@pytest.mark.parametrize("lost", ["queries/*.safetensors", "features/00001.safetensors"])
def test_on_a_read_only_disk_it_is_refused_in_a_line(index, monkeypatch, lost):
    """And changes nothing."""
    for path in index.glob(lost):
        cut(path)
    before = state(index)
    with monkeypatch.context() as patch:
        read_only(patch, index)
        assert len(verify(index)) >= 1
        with pytest.raises(StoreError, match=READ_ONLY):
            repair(index)
    assert state(index) == before
    repair(index)
    assert verify(index) == []
