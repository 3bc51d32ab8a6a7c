"""Image folders: names of any script, and what is left out is said."""

import os
import sys

import pytest
from PIL import Image
from support.archives import write_tar
from support.pictures import encoded, loaded, noise, same, write_pictures

from headwater.data import decode
from headwater.data.folders import listing
from headwater.data.sources import load_dataset
from headwater.errors import BadImageError, DatasetError, HeadwaterWarning

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
    names = ["b.psd", "c.PSD", "d.svg", "lost.txt", "a.txt", "data.zip", "x.parquet"]
    write_pictures(tmp_path, "a.png")
    for name in [*names, "README.md", "LICENSE", ".hidden.gif"]:
        (tmp_path / name).write_text("a cat")
    data, said = loaded(tmp_path)
    assert [(sample.id, sample.caption) for sample in data.samples] == [("a.png", "a cat")]
    (line,) = said
    kinds = line.partition("(")[2].partition(")")[0].split(", ")
    assert kinds[0] == "2 .psd"
    assert sorted(kinds[1:]) == ["1 .parquet", "1 .svg", "1 .txt", "1 .zip"]


def without_plugins(monkeypatch):
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    for format in ("HEIF", "JXL"):
        monkeypatch.delitem(Image.OPEN, format, raising=False)
    monkeypatch.setattr(listing, "_is_read", listing._is_read.__wrapped__)


def test_images_that_want_a_plugin_are_counted_with_the_extra(tmp_path, monkeypatch):
    without_plugins(monkeypatch)
    write_pictures(tmp_path, "a.png", "b.HEIC", "c.heic", "d.jxl")
    write_tar(tmp_path / "set.tar", {"a.png": encoded(noise(0)), "b.jxl": b"", "c.jxl": b""})
    data, said = loaded(tmp_path)
    assert len(data) == 1
    assert said[0] == (
        "3 image(s) of kinds that are not read here are left out (2 .heic, 1 .jxl): pip install "
        "'headwater[formats]'"
    )
    data, said = loaded(tmp_path / "set.tar")
    assert len(data) == 1 and len(said) == 1 and said[0].startswith("2 image(s) of kinds")


def test_a_folder_of_nothing_else_says_so(tmp_path, monkeypatch):
    without_plugins(monkeypatch)
    write_pictures(tmp_path, "b.heic")
    with pytest.warns(HeadwaterWarning, match=r"pip install 'headwater\[formats\]'"):
        with pytest.raises(DatasetError, match="holds no images"):
            load_dataset(tmp_path)


KINDS = {
    ".gif": "GIF", ".tif": "TIFF", ".TIFF": "TIFF", ".avif": "AVIF", ".ico": "ICO", ".jfif": "JPEG",
    ".jp2": "JPEG2000", ".ppm": "PPM", ".tga": "TGA", ".qoi": "QOI",
}  # fmt: skip


@pytest.mark.parametrize("suffix, format", KINDS.items())
def test_every_kind_that_pillow_reads(tmp_path, suffix, format):
    if not decode.can_read(format):
        pytest.skip(f"this Pillow is built without {format}")
    noise(0, 16).save(tmp_path / f"a{suffix}", format)
    data, said = loaded(tmp_path)
    with Image.open(tmp_path / f"a{suffix}") as expected:
        assert same(data.image(0), expected.convert("RGB")) and not said


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
