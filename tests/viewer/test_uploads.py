"""Pictures from outside: what is too large or no picture is refused before it is decoded."""

import os

import numpy as np
import PIL.Image
import pytest
from support.pictures import encoded, noise

from headwater.errors import QueryError
from headwater.viewer import uploads


def written(folder, content: bytes):
    file = folder / "given"
    file.write_bytes(content)
    return file


def test_a_picture_is_kept_by_its_pixels_alone(tmp_path):
    picture = PIL.Image.new("RGB", (3000, 1500), "#cc3344")
    exif = picture.getexif()
    exif[270] = "a secret place"
    file = written(tmp_path, encoded(picture, "JPEG", exif=exif))
    image = uploads.picture_of(file)
    assert image.size == (1024, 512)
    kept = uploads.kept(tmp_path, image)
    assert kept.parent == tmp_path and b"secret" not in kept.read_bytes()
    assert uploads.kept(tmp_path, image) == kept


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "the picture cannot be read: it is empty, no image"),
        (b"%!PS-Adobe\n", "it is PostScript, which is not read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is no image"),
        (encoded(noise(0))[:60], "the picture cannot be read: "),
        (os.urandom(1000), "it is no image"),
    ],
)
def test_no_picture_is_refused(tmp_path, content, said):
    with pytest.raises(QueryError) as caught:
        uploads.picture_of(written(tmp_path, content))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_too_many_bytes_are_refused_unread(tmp_path):
    file = tmp_path / "large"
    with file.open("wb") as large:
        large.truncate(uploads.MOST_BYTES + 1)
    with pytest.raises(QueryError, match="the picture has 20 MB, more than 20: scale it down"):
        uploads.picture_of(file)


def test_a_bomb_is_refused_undecoded(tmp_path, monkeypatch):
    """A few kilobytes that would be 50 million pixels."""
    file = written(tmp_path, encoded(PIL.Image.new("1", (10_000, 5_000)), "PNG"))
    assert file.stat().st_size < 20_000
    monkeypatch.setattr(PIL.Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(QueryError, match="10,000 x 5,000 pixels, more than 40 million"):
        uploads.picture_of(file)


def test_what_is_painted_is_white_in_the_mask(tmp_path):
    layer = np.zeros((20, 30, 4), np.uint8)
    layer[5:10, 6:12] = (213, 94, 0, 255)
    file = written(tmp_path, encoded(PIL.Image.fromarray(layer)))
    mask = uploads.mask_of([file], (60, 40))
    expected = np.zeros((40, 60), np.uint8)
    expected[10:20, 12:24] = 255
    assert mask is not None and np.array_equal(np.asarray(mask), expected)
    empty = written(tmp_path, encoded(PIL.Image.new("RGBA", (30, 20))))
    assert uploads.mask_of([empty], (60, 40)) is None and uploads.mask_of([], (6, 4)) is None
