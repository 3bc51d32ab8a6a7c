"""An index and the images that it was built from, which may change under it."""

import shutil

import pytest
import torch
from support.index_files import RECIPE

from headwater import Image, Session
from headwater.data.memory import from_images
from headwater.data.sources import load_dataset
from headwater.errors import DatasetError
from headwater.index.build import build_index
from headwater.index.index import Index
from headwater.models.denoiser import Denoiser


def test_a_picture_is_found_by_its_id_when_others_are_gone(tmp_path, tiny_model, tiny_images):
    images = tmp_path / "images"
    shutil.copytree(tiny_images, images)
    data = load_dataset(images).first(6)
    before = [data.image(row).tobytes() for row in range(6)]
    build_index(Denoiser.load(tiny_model), data, tmp_path / "index", **RECIPE)
    (images / data.samples[2].id).unlink()  # whose row in metadata.jsonl stays
    with pytest.raises(DatasetError, match=r"there is no image 'train-00002\.png'"):
        load_dataset(images)
    index = Index.open(tmp_path / "index")
    after = [index.image(row) for row in range(6)]
    assert after[2] is None
    assert [after[row].tobytes() for row in (0, 1, 3, 4, 5)] == before[:2] + before[3:]


def test_all_captions_of_an_image_are_kept_and_shown(tmp_path, tiny_model, tiny_images):
    folder = load_dataset(tiny_images).first(4)
    captions = [[sample.caption] for sample in folder.samples]
    captions[1].append("a thing")
    data = from_images([folder.image(row) for row in range(4)], captions)
    notes, denoiser = [], Denoiser.load(tiny_model)
    index = build_index(denoiser, data, tmp_path / "index", note=notes.append, **RECIPE)
    assert any("1 image(s) have several captions, such as 'row-00000001': one" in n for n in notes)
    index = Index.open(tmp_path / "index", denoiser)
    assert list(index.samples) == list(data.samples)
    session = Session(index)
    assert len(session.captions) == 5 and "a thing" in session.captions
    shown = session.attribute(Image("a thing", tiny_images / folder.samples[1].id)).top(4)
    assert {each.caption for each in shown} == {
        captions[0][0], f"{captions[1][0]} | a thing", captions[2][0], captions[3][0],
    }  # fmt: skip
    other = from_images([folder.image(row) for row in range(4)], [own[0] for own in captions])
    plain = build_index(denoiser, other, tmp_path / "plain", **RECIPE)
    ours, theirs = (torch.cat(list(each.blocks())) for each in (index, plain))
    assert torch.equal(ours[[0, 2, 3]], theirs[[0, 2, 3]])
    assert not torch.allclose(ours[1], theirs[1])
