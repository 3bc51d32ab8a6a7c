"""What is read as a picture, and what is said of what is none."""

import contextlib
import io
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from support.pictures import encoded, noise, same

from headwater.data import decode
from headwater.data.images import read_image, to_rgb
from headwater.errors import HeadwaterWarning, QueryError

BROKEN_EXIF = b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_broken_exif_leaves_the_picture_whole(tmp_path, format):
    plain = to_rgb(encoded(noise(0), format))
    (tmp_path / "a").write_bytes(encoded(noise(0), format, exif=BROKEN_EXIF))
    with pytest.warns(HeadwaterWarning, match="broken EXIF"):
        picture = read_image(tmp_path / "a")
    assert same(picture, plain)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = to_rgb(encoded(noise(0), exif=exif))
    assert same(to_rgb(upright), upright)
    if orientation == 6:
        assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(noise(0)), 3))


def test_no_other_program_is_started_for_a_picture(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    monkeypatch.setattr(os, "system", started.append)
    noise(0).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(QueryError, match="it is PostScript, which is not read: convert it to PNG"):
        read_image(tmp_path / "a.png")
    assert not started


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP"])
def test_the_first_of_several_pictures_is_read(format):
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(pictures[0], format, save_all=True, append_images=pictures[1:])
    red, _, blue = to_rgb(content).getpixel((4, 4))
    assert red > 250 and blue < 5


@pytest.mark.parametrize("order", ["<", ">"])
def test_greys_of_16_bits_in_either_order(order):
    grey = Image.fromarray(np.full((2, 2), 90 * 257, np.uint16))
    content = encoded(grey, "TIFF")
    if order == ">":
        content = encoded(Image.frombytes("I;16B", (2, 2), b"\x5a\x5a" * 4), "TIFF")
    assert to_rgb(content).getpixel((1, 1)) == (90, 90, 90)


def test_floating_point_pixels_are_refused():
    content = encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
    with pytest.raises(ValueError, match="floating point numbers: save it with 8 or 16 bits"):
        to_rgb(content)


def test_a_plugin_is_set_to_work_when_it_is_needed(monkeypatch):
    """Of a format that begins as HEIC does, and is a BMP after that."""
    head = b"\0\0\0\x18ftypheic"

    def opener(stream, name):
        return BmpImageFile(io.BytesIO(stream.read()[len(head) :]))

    def register():
        Image.register_open("HEIF", opener, lambda start: start.startswith(head))

    monkeypatch.setattr(Image, "OPEN", {k: v for k, v in Image.OPEN.items() if k != "HEIF"})
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    plugin = types.SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    assert same(to_rgb(head + encoded(noise(0), "BMP")), noise(0))


@pytest.mark.parametrize("module, format", [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_plugins_that_are_installed(module, format):
    pytest.importorskip(module)
    assert decode.can_read(format)
    with Image.open(io.BytesIO(encoded(noise(0, 16), format))) as expected:
        assert same(to_rgb(encoded(noise(0, 16), format)), expected.convert("RGB"))
    for content in (encoded(noise(0, 16), format)[:60], encoded(noise(0), format)[:-9] + b"\0" * 9):
        with contextlib.suppress(*decode.DAMAGE):  # and nothing else
            to_rgb(content)


def test_a_pillow_without_avif_is_said(monkeypatch):
    assert decode.unread_kinds({".avif": 2}) == "" or not decode.can_read("AVIF")
    monkeypatch.setattr(decode.features, "get_supported", lambda: [])
    assert decode.unread_kinds({".avif": 2, ".png": 1}).endswith(
        "(2 .avif): pip install --upgrade pillow"
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA"])
def test_usual_formats_are_read(tmp_path, format):
    noise(0).save(tmp_path / "a", format)
    with Image.open(tmp_path / "a") as expected:
        assert same(read_image(tmp_path / "a"), expected.convert("RGB"))


NAMED = {
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "heic": (b"\0\0\0\x18ftypheic" + b"\0" * 99, "HEIC.*convert it to PNG"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "jpeg xl": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "text": (b"<html>", "it is no image"),
    "empty": (b"", "it is empty"),
}


@pytest.mark.parametrize("content, words", NAMED.values(), ids=NAMED)
def test_what_is_no_picture_is_named(tmp_path, monkeypatch, content, words):
    monkeypatch.setattr(decode, "can_read", lambda format: False)
    own = [format for format in decode._FORMATS if format not in ("HEIF", "JXL")]
    monkeypatch.setattr(decode, "_FORMATS", own)  # a plug-in may be there
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(QueryError, match=words) as excinfo:
        read_image(tmp_path / "a.png")
    assert "\n" not in str(excinfo.value)
    with pytest.raises(Image.UnidentifiedImageError, match=words):
        decode.open_picture(content)


def test_pipes_and_folders_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(QueryError, match="no regular file"):
        read_image(tmp_path / "pipe")
    with pytest.raises(QueryError, match="it is a folder"):
        read_image(tmp_path)


def test_a_picture_that_is_too_large_is_refused(tmp_path, monkeypatch):
    noise(0, 64).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(QueryError, match=r"exceeds limit.*: scale it down"):
        read_image(tmp_path / "a.png")
