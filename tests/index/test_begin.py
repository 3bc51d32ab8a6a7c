"""Where an index begins: a folder that is a link, and a table of samples that is lost."""

import shutil
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from support.index_files import RECIPE, files, state

from headwater.data.sources import load_dataset
from headwater.errors import StoreError
from headwater.index.build import build_index
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
    with pytest.raises(StoreError, match="cannot make the folder") as caught:
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
