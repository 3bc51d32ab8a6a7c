"""Folders of kohya's trainer: how often images were seen, and captions by the folder's name."""

import pytest
from support.pictures import captions_of, loaded, write_pictures

from headwater.data.folders.kohya import repeated
from headwater.data.sources import load_pictures


def test_names_say_repeats_and_captions(tmp_path):
    write_pictures(tmp_path, "10_sks girl/a.png", "10_sks girl/b.png", "1_style_x/c.png", "d.png")
    (tmp_path / "10_sks girl" / "b.txt").write_text("a girl with a hat")
    data, said = loaded(tmp_path)
    assert captions_of(data) == {
        "10_sks girl/a.png": "sks girl",
        "10_sks girl/b.png": "a girl with a hat",
        "1_style_x/c.png": "style_x",
        "d.png": "",
    }
    assert [sample.repeats for sample in data.samples] == [10, 10, 1, 1]
    assert [sample.repeats for sample in data.take([3, 0]).samples] == [1, 10]
    assert len(said) == 1 and said[0].startswith(
        "'10_sks girl' (2 images), '1_style_x' (1 images) are read as kohya's trainer does"
    )
    assert "without one (2)" in said[0] and "rename folders" in said[0]


def test_pictures_alone_say_nothing_of_it(tmp_path):
    write_pictures(tmp_path, "10_girl/a.png")
    assert load_pictures(str(tmp_path)).samples[0].caption == ""


@pytest.mark.parametrize(
    "name", ["a.png", "10_girl.png", "2024_summer/a.png", "girl/a.png", "10_/a.png", "0_x/a.png",
             "girl/10_x/a.png", "10/a.png", "10_ /a.png"]
)  # fmt: skip
def test_other_names_say_nothing(tmp_path, name):
    write_pictures(tmp_path, name)
    data, said = loaded(tmp_path)
    assert data.samples[0].repeats == 1 and not said and not data.samples[0].caption
    assert repeated(name) is None
