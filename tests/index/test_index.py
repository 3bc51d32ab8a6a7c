"""An index and the images that it was built from, which may change under it."""

import shutil

import pytest
from support.index_files import RECIPE

from headwater.data.sources import load_dataset
from headwater.errors import HeadwaterWarning
from headwater.index.build import build_index
from headwater.index.index import Index
from headwater.models.denoiser import Denoiser


def test_a_picture_is_found_by_its_id_when_others_are_gone(tmp_path, tiny_model, tiny_images):
    images = tmp_path / "images"
    shutil.copytree(tiny_images, images)
    (images / "metadata.jsonl").unlink()  # a row without its image is refused
    data = load_dataset(images).first(6)
    before = [data.image(row).tobytes() for row in range(6)]
    with pytest.warns(HeadwaterWarning, match="has no captions"):
        build_index(Denoiser.load(tiny_model), data, tmp_path / "index", **RECIPE)
    (images / data.samples[2].id).unlink()
    index = Index.open(tmp_path / "index")
    after = [index.image(row) for row in range(6)]
    assert after[2] is None
    assert [after[row].tobytes() for row in (0, 1, 3, 4, 5)] == before[:2] + before[3:]
