"""Pictures in memory: fingerprints by their pixels, and what is no picture is refused."""

import inspect

import numpy as np
import pytest
from PIL import Image
from support.pictures import encoded, noise, same

from headwater.data.memory import from_images
from headwater.errors import BadImageError, DatasetError


def test_other_pictures_of_the_same_size_are_another_set():
    one, again, other = (
        from_images([noise(seed)], ["a cat"]).fingerprint for seed in (0, 0, 1)
    )  # fmt: skip
    assert one == again != other


def test_one_pixel_a_palette_or_a_turn_is_seen():
    base = noise(0)
    pixel = base.copy()
    pixel.putpixel((3, 3), (1, 2, 3))
    palette = base.convert("P")
    recoloured = palette.copy()
    recoloured.putpalette(palette.getpalette()[::-1])
    turned = base.transpose(Image.Transpose.ROTATE_90)
    images = [base, pixel, palette, recoloured, turned]
    assert len({from_images([image], ["a"]).fingerprint for image in images}) == len(images)


def test_arrays_are_pictures():
    array = np.asarray(noise(0))
    grey = array[..., 0]
    data = from_images([array, grey, np.dstack([array, grey])], ["a"] * 3)
    assert same(data.image(0), noise(0))
    assert data.image(1).getpixel((2, 2)) == (int(grey[2, 2]),) * 3
    assert data.fingerprint != from_images([array, grey, array], ["a"] * 3).fingerprint
    assert from_images([array], ["a"]).fingerprint == from_images([noise(0)], ["a"]).fingerprint


def test_several_captions_are_kept():
    one, two = from_images([noise(0), noise(1)], [["a cat", "an animal"], ["a dog"]]).samples
    assert one.caption == "a cat" and one.all_captions == ("a cat", "an animal")
    assert one.caption_line == "a cat | an animal"
    assert two.captions == () and two.all_captions == ("a dog",) and two.caption_line == "a dog"


def test_a_damaged_file_is_said_when_it_is_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(noise(0, 64))[:-500])
    with Image.open(tmp_path / "a.png") as image:
        data = from_images([image, noise(1)], ["a", "b"])
        with pytest.raises(BadImageError, match="row-00000000"):
            data.image(0)
    assert same(data.image(1), noise(1))


ONE = [noise(0)]
WRONG = {
    "path": (["a.png"], ["a"], "image 0 is str.*load_dataset with their folder"),
    "floats": ([np.zeros((8, 8, 3))], ["a"], r"an array of float64 of shape \(8, 8, 3\)"),
    "channels first": ([np.zeros((3, 8, 8), np.uint8)], ["a"], r"of shape \(3, 8, 8\)"),
    "none": ([None], ["a"], "image 0 is NoneType"),
    "a path alone": ("a.png", ["a"], "images must be a list"),
    "no captions": (ONE, None, "captions must be a list"),
    "a caption alone": (ONE, "a", "captions must be a list"),
    "caption none": (ONE, [None], "caption of image 0 is None: give text"),
    "caption number": (ONE, [3], "caption of image 0 is 3"),
    "half a character": (ONE, ["a \ud83c"], "caption of 'row-00000000'.*half a character"),
}


@pytest.mark.parametrize("images, captions, words", WRONG.values(), ids=WRONG)
def test_what_is_none_is_refused(images, captions, words):
    with pytest.raises(DatasetError, match=words) as excinfo:
        inspect.unwrap(from_images)(images, captions)  # without the type check of the tests
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize("id", ["a\nb", "a\x1b[31m", "a\ud800", "a\u2028b"])
def test_ids_that_are_no_text_are_refused(id):
    with pytest.raises(DatasetError, match="no plain text") as excinfo:
        from_images(ONE, ["a"], [id])
    assert str(excinfo.value).isprintable()
