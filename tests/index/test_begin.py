"""Where an index begins: a folder that is a link, and a table of samples that is lost."""

import shutil
from pathlib import Path

import pytest
from support.index_files import RECIPE, files, state

from headwater.data.sources import load_dataset
from headwater.errors import StoreError
from headwater.index.build import build_index
from headwater.index.index import Index
from headwater.models.denoiser import Denoiser


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
    with pytest.raises(StoreError, match="run the same `headwater index` command"):
        Index.open(folder)
    shard = next(folder.glob("features/*.safetensors"))
    before = state(folder)[shard]
    build_index(denoiser, load_dataset(tiny_images), folder, **RECIPE)
    assert files(folder) == files(small) and state(folder)[shard] == before
