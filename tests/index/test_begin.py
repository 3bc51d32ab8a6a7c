"""Where an index begins: a folder that is a link, a table that is lost, kills, disks."""

import shutil
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from support.disks import READ_ONLY, full, read_only
from support.index_files import RECIPE, files, state

from headwater.data.sources import load_dataset
from headwater.errors import ResourceError, StoreError
from headwater.index.build import build_index
from headwater.index.building import one_model
from headwater.index.index import Index
from headwater.models.denoiser import Denoiser
from headwater.storage.manifest import read_manifest, write_manifest


@pytest.fixture(scope="module")
def denoiser(tiny_model) -> Denoiser:
    return Denoiser.load(tiny_model)


@pytest.fixture(scope="module")
def small(tmp_path_factory, denoiser, tiny_images) -> Path:
    """A finished index of 20 rows; copy it before changing it."""
    folder = tmp_path_factory.mktemp("built") / "small"
    build_index(denoiser, load_dataset(tiny_images), folder, **RECIPE)
    return folder


def test_overwrite_of_a_link_keeps_the_link(tmp_path, small, denoiser, tiny_images):
    """As where the index lies on another disk."""
    disk, link = tmp_path / "disk", tmp_path / "index"
    shutil.copytree(small, disk)
    (disk / "queries").mkdir()
    (disk / "queries/old.safetensors").write_text("of the old index")
    link.symlink_to(disk)
    built = build_index(
        denoiser, load_dataset(tiny_images), link, overwrite=True, **(RECIPE | {"seed": 1})
    )
    assert link.is_symlink() and built.recipe.seed == 1
    assert set(files(disk)) == {"index.json", "samples.parquet", "features/00000.safetensors"}


def test_a_link_that_leads_nowhere_is_refused_in_a_line(tmp_path, denoiser, tiny_images):
    link = tmp_path / "index"
    link.symlink_to(tmp_path / "unplugged")
    with pytest.raises(StoreError, match="cannot write") as caught:
        build_index(denoiser, load_dataset(tiny_images), link, overwrite=True, **RECIPE)
    assert "\n" not in str(caught.value) and link.is_symlink()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_the_same_command_mends_a_table_of_samples(tmp_path, small, denoiser, tiny_images, damage):
    """The shards say which rows they hold, so nothing is computed again."""
    folder = Path(shutil.copytree(small, tmp_path / "index"))
    damage(folder / "samples.parquet")
    with pytest.raises(StoreError, match="writes it again"):
        Index.open(folder)
    shard = next(folder.glob("features/*.safetensors"))
    before = state(folder)[shard]
    build_index(denoiser, load_dataset(tiny_images), folder, **RECIPE)
    assert files(folder) == files(small) and state(folder)[shard] == before


# --- killed anywhere ------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill wherever it is raised: nothing may catch it."""


def killed_at(monkeypatch, call: int) -> list[str]:
    """Names of what is changed on disk (a rename, a removal), until the process dies at one."""
    calls = []

    def stop(name, real):
        def change(*args, **options):
            calls.append(name)
            if len(calls) == call + 1:
                raise Killed
            return real(*args, **options)

        return change

    for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, stop(name, getattr(owner, name)))
    return calls


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_command_goes_on_after_any_kill(tmp_path, denoiser, tiny_images, overwrite):
    """At each change of the disk in turn: what the process would tidy up stays as it is."""
    data = load_dataset(tiny_images).first(2)
    recipe = {"method": "trak", "timesteps": 1, "dim": 8, "batch_size": 2}
    old = build_index(denoiser, data, tmp_path / "old", **recipe).path
    (old / "queries").mkdir()
    (old / "queries/old.safetensors").write_text("of the old index")
    options = recipe | {"seed": int(overwrite), "overwrite": overwrite}
    for call in count():
        folder = tmp_path / f"killed at {call}"
        if overwrite:
            shutil.copytree(old, folder)
        with pytest.MonkeyPatch.context() as patch:
            calls = killed_at(patch, call)
            with suppress(Killed):
                build_index(denoiser, data, folder, **options)
        built = build_index(denoiser, data, folder, **options)
        assert len(built) == 2 and built.recipe.seed == overwrite, calls
        found = set(files(folder))
        assert found == {"index.json", "samples.parquet", "features/00000.safetensors"}, calls
        if len(calls) <= call:  # it was done before it would have been killed
            break
    assert {"replace", "unlink"} <= set(calls) and ("rmtree" in calls) == overwrite


# --- disks ----------------------------------------------------------------------------------------


def written(folder: Path) -> dict[str, bytes]:
    """Every file; of a curvature, whose metadata have an order of their own, `index.json` tells."""
    return {
        name: b"" if name.startswith("curvature") else data for name, data in files(folder).items()
    }


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_command_goes_on_after_any_full_disk(tmp_path, denoiser, tiny_images, overwrite):
    """That had room for one file more each time; of a curvature too."""
    data = load_dataset(tiny_images).first(2)
    recipe = {"method": "ekfac", "timesteps": 1, "dim": 8, "batch_size": 2}
    old = build_index(denoiser, data, tmp_path / "old", **recipe, seed=1).path
    expected = written(build_index(denoiser, data, tmp_path / "new", **recipe).path)
    for room in count():
        folder = tmp_path / f"room for {room}"
        if overwrite:
            shutil.copytree(old, folder)
        with pytest.MonkeyPatch.context() as patch:
            calls = full(patch, room)
            with suppress(ResourceError):
                build_index(denoiser, data, folder, **recipe, overwrite=overwrite)
        assert not list(folder.rglob("*.part"))
        build_index(denoiser, data, folder, **recipe, overwrite=overwrite)
        assert written(folder) == expected
        if len(calls) <= room:
            break
    assert room > 6


def test_an_index_on_a_read_only_disk_is_whole_and_stays(
    tmp_path, small, denoiser, tiny_images, monkeypatch
):
    """Whatever notes a kill left there; what would change it is refused in a line."""
    folder, data = Path(shutil.copytree(small, tmp_path / "index")), load_dataset(tiny_images)
    (folder / "features/00000.json").write_text("{}")
    before = state(folder)
    with monkeypatch.context() as patch:
        read_only(patch, folder)
        assert len(build_index(denoiser, data, folder, **RECIPE)) == 20
        with pytest.raises(StoreError, match=READ_ONLY):
            build_index(denoiser, data, folder, overwrite=True, **RECIPE)
    assert state(folder) == before


def test_a_disk_that_becomes_read_only_ends_a_build_in_a_line(
    tmp_path, denoiser, tiny_images, monkeypatch
):
    """As it does after an error of its own; what was begun then cannot be tidied up."""
    folder, data, begun = tmp_path / "index", load_dataset(tiny_images), one_model.begin

    def begin(*args, **options):
        manifest = begun(*args, **options)
        read_only(monkeypatch, folder)
        return manifest

    monkeypatch.setattr(one_model, "begin", begin)
    with pytest.raises(StoreError, match=rf"cannot write .*00000.safetensors: {READ_ONLY}"):
        build_index(denoiser, data, folder, **RECIPE)
    monkeypatch.undo()
    assert len(build_index(denoiser, data, folder, **RECIPE)) == 20


def test_a_folder_with_half_a_write_alone_is_empty(tmp_path, small, denoiser, tiny_images):
    """As a kill leaves it before the first `index.json` has its name."""
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "index.json.0123456789ab.part").write_text("{")
    (folder / "headwater-lock").write_text("")
    build_index(denoiser, load_dataset(tiny_images), folder, **RECIPE)
    assert files(folder) == files(small)


def test_other_versions_that_go_on_say_so(tmp_path, small, denoiser, tiny_images):
    folder = Path(shutil.copytree(small, tmp_path / "index"))
    old = read_manifest(folder)
    write_manifest(folder, replace(old, versions={**old.versions, "torch": "1.0", "python": "2"}))
    (folder / "samples.parquet").unlink()
    said = []
    build_index(denoiser, load_dataset(tiny_images), folder, note=said.append, **RECIPE)
    (line,) = [line for line in said if line.startswith("begun with")]
    assert "begun with torch 1.0 (now " in line and "python" not in line and "--overwrite" in line
