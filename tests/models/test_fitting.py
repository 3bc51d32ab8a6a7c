"""Pictures resized whole and cut in the middle, as trainers do."""

import numpy as np
import pytest
from PIL import Image

from headwater import Denoiser
from headwater.errors import ParameterError
from headwater.models.fitting import (
    RESIZES,
    _means_of_areas,
    bucket_of,
    buckets_named,
    fit_of,
    fitted,
)

# (height, width) of a picture, and to what.
SIZES = [((31, 47), (16, 16)), ((90, 20), (16, 24)), ((12, 9), (16, 16)), ((17, 40), (17, 23))]


def picture(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("size", "to"), SIZES)
@pytest.mark.parametrize("resize", ["bicubic", "bilinear", "lanczos"])
def test_as_the_whole_picture_resized_and_cut(resize, size, to):
    """By Pillow's own call of the whole, and kohya's cut: half of what is over, rounded down."""
    image = picture(size)
    scale = max(to[0] / size[0], to[1] / size[1])
    rows, columns = (int(length * scale + 0.5) for length in size)
    top, left = (rows - to[0]) // 2, (columns - to[1]) // 2
    assert fit_of(image, to) == (size, (top, left), to)
    whole = image.resize((columns, rows), RESIZES[resize])
    exact = whole.crop((left, top, left + to[1], top + to[0]))
    assert fitted(image, to, resize).tobytes() == exact.tobytes()


@pytest.mark.parametrize(("size", "to"), SIZES)
def test_area_is_the_mean_of_what_a_pixel_covers(size, to):
    """Each pixel as 60 times 60 smaller ones; what is enlarged is as by Lanczos."""
    image = picture(size)
    scale = max(to[0] / size[0], to[1] / size[1])
    if scale > 1:
        assert fitted(image, to, "area").tobytes() == fitted(image, to, "lanczos").tobytes()
        return
    rows, columns = (int(length * scale + 0.5) for length in size)
    fine = np.asarray(image, float).repeat(rows, 0).repeat(columns, 1)
    means = fine.reshape(rows, size[0], columns, size[1], 3).mean((1, 3))
    top, left = fit_of(image, to).cut
    exact = means[top : top + to[0], left : left + to[1]]
    ours = np.asarray(fitted(image, to, "area"), float)
    assert ours.shape == (*to, 3) and np.abs(ours - exact).max() <= 0.5 + 1e-6


def test_area_is_opencvs():
    """What cv2.resize(..., interpolation=cv2.INTER_AREA) of 5.0 gives, of 7 x 5 to 4 x 3."""
    pixels = (np.arange(35) * 37 % 256).astype(np.uint8).reshape(7, 5)
    theirs = [[94, 66, 103], [119, 149, 113], [121, 85, 115], [131, 168, 140]]
    ours = _means_of_areas(Image.fromarray(pixels), (0.0, 0.0, 5.0, 7.0), (4, 3))
    assert np.asarray(ours).tolist() == theirs


def test_a_picture_of_this_size_stays_as_it_is():
    assert fitted(picture((16, 16)), (16, 16), "area") == picture((16, 16))


def test_of_a_long_strip_only_the_middle_is_computed():
    """The whole would have 300 million pixels."""
    strip = Image.new("RGB", (40_000, 1), "red")
    assert fit_of(strip, (90, 90)).cut == (0, (3_600_000 - 90) // 2)
    assert fitted(strip, (90, 90)).getcolors() == [(90 * 90, (255, 0, 0))]


def test_a_model_is_shown_pictures_so(tiny_model):
    image = picture((40, 60))
    usual = Denoiser.load(tiny_model)
    for resize in RESIZES:
        denoiser = Denoiser(usual.pipe, resize=resize)
        exact = usual.encode_images([fitted(image, (16, 16), resize)])
        assert np.array_equal(denoiser.encode_images([image]), exact)
        assert (denoiser.encoders_fingerprint() == usual.encoders_fingerprint()) == (
            resize == "bicubic"
        )
    with pytest.raises(ParameterError, match=r"^--resize 'nearest' is not one of bicubic, bilin"):
        Denoiser(usual.pipe, resize="nearest")


# --- aspect buckets -------------------------------------------------------------------------------

# (width, height) of kohya's trainer for 512 pixels, as it is installed.
KOHYA = [
    (256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576),
    (512, 512), (576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256),
    (1024, 256),
]  # fmt: skip


def test_buckets_are_kohyas():
    found = buckets_named("64", (512, 512))
    assert [size[::-1] for size in found] == KOHYA
    assert buckets_named("64:256:1024", (512, 512)) == found
    assert (832, 1216) in buckets_named("64", (1024, 1024))
    assert (768, 1360) in buckets_named("1024x1024,768x1360", (1024, 1024))
    assert buckets_named(None, (512, 512)) == ()


def test_a_picture_has_the_bucket_of_the_nearest_shape():
    """By width / height; one of its own size, whatever else is as near."""
    found = buckets_named("64", (512, 512))
    assert bucket_of((3000, 4000), found) == (448, 576)  # 1.286 of 1.333
    assert bucket_of((4000, 3000), found) == (576, 448)
    assert bucket_of((100, 9000), found) == (256, 1024)
    assert bucket_of((256, 832), found) == (256, 832)
    assert bucket_of((300, 300), ()) is None
