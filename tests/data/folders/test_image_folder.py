"""Image folders: names of any script, and what is left out is said."""

import os

import pytest
from support.pictures import encoded, loaded, noise, same, write_pictures

from headwater.data.sources import load_dataset
from headwater.errors import BadImageError, DatasetError

NAMES = {
    "narrow no-break space": "Screenshot 9.14.07\u202fAM.png",
    "joined emoji": "\U0001f468\u200d\U0001f469.png",
    "ideographic space": "\u5199\u771f\u30001.png",
    "right to left": "\u05d0\u200f.png",
    "combining": "Zoe\u0308.png",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_may_be_any_text(tmp_path, name):
    write_pictures(tmp_path, name)
    data, said = loaded(tmp_path)
    assert [sample.id for sample in data.samples] == [name] and not said
    assert same(data.image(0), noise(0))


@pytest.mark.parametrize(
    "name, id",
    [
        (b"caf\xe9.png", r"caf\xe9.png"),
        (b"a\nb.png", r"a\nb.png"),
        (b"\x1b[31m.png", r"\x1b[31m.png"),
    ],
)
def test_what_is_no_text_in_a_name_is_escaped(tmp_path, name, id):
    write_pictures(tmp_path, "good.png")
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:  # noqa: PTH123
        file.write(encoded(noise(7)))
    data, said = loaded(tmp_path)
    row = next(row for row, sample in enumerate(data.samples) if sample.id != "good.png")
    assert data.samples[row].id == id and data.samples[row].uri == f"{tmp_path.name}/{id}"
    assert same(data.image(row), noise(7))
    assert said == [f"1 file name(s) are no plain text and are written with escapes, such as {id}"]


def test_files_of_other_kinds_are_counted(tmp_path):
    names = ["b.gif", "c.GIF", "d.tiff", "e.heic", "lost.txt", "a.txt", "data.zip", "x.parquet"]
    write_pictures(tmp_path, "a.png")
    for name in [*names, "README.md", "LICENSE", ".hidden.gif"]:
        (tmp_path / name).write_text("a cat")
    data, said = loaded(tmp_path)
    assert [(sample.id, sample.caption) for sample in data.samples] == [("a.png", "a cat")]
    (line,) = said
    kinds = line.partition("(")[2].partition(")")[0].split(", ")
    assert kinds[0] == "2 .gif"
    assert sorted(kinds[1:]) == ["1 .heic", "1 .parquet", "1 .tiff", "1 .txt", "1 .zip"]


def test_a_moved_folder_is_told_how_to_be_found(tmp_path):
    write_pictures(tmp_path / "a", "a.png")
    source = load_dataset(tmp_path / "a").source
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(DatasetError, match="moved since they were indexed, run the same"):
        load_dataset(source)


def test_a_git_lfs_pointer_is_named(tmp_path):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 34\n"
    (tmp_path / "a.png").write_text(pointer)
    with pytest.raises(BadImageError, match=r"git-lfs pointer.*run `git lfs pull`"):
        load_dataset(tmp_path).image(0)
