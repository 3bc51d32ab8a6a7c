"""Near-copies: copies of a scene as files change them are one; scenes are not."""

import io
from itertools import count

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from headwater.data.near_duplicates import THRESHOLD, distance, distinct, thumbnail
from headwater.scenes.dataset import pictures

SCENES = [picture.draw().convert("RGB") for picture in pictures("train")[:60]]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def shifted(image: Image.Image, right: int, down: int) -> Image.Image:
    padded = np.pad(np.asarray(image), ((down, 0), (right, 0), (0, 0)), mode="edge")
    return Image.fromarray(padded[: image.height, : image.width])


COPIES = {
    "the same": lambda image: image.copy(),
    "jpeg 75": lambda image: jpeg(image, 75),
    "jpeg 50": lambda image: jpeg(image, 50),
    "shift": lambda image: shifted(image, 1, 1),
    "cut": lambda image: image.crop((0, 0, 63, 63)),
    "larger": lambda image: image.resize((300, 300), Image.Resampling.LANCZOS),
    "smaller": lambda image: image.resize((48, 48), Image.Resampling.BICUBIC),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.05),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.95),
    "transparent": lambda image: image.convert("RGBA"),
}
OTHERS = {
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "other colours": lambda image: Image.merge("RGB", image.split()[::-1]),
    "moved": lambda image: shifted(image, 8, 0),
    "night": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_scene_is_near(change):
    found = [distance(thumbnail(scene), thumbnail(change(scene))) for scene in SCENES]
    assert max(found) < THRESHOLD


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_picture_changed_more_is_another(change):
    found = [distance(thumbnail(scene), thumbnail(change(scene))) for scene in SCENES]
    assert np.median(found) > 2 * THRESHOLD


def test_no_two_scenes_are_near():
    small = [thumbnail(scene) for scene in SCENES]
    nearest = min(distance(a, b) for i, a in enumerate(small) for b in small[:i])
    assert nearest > 1.3 * THRESHOLD


def test_distance_is_symmetric_and_takes_out_shift_and_brightness_alone():
    """A smooth picture: sines, whose shifted and brightened versions are known exactly."""
    x = np.arange(16) * 2 * np.pi / 16

    def waves(shift, gain=1.0, high=0.0):
        wave = 0.5 + 0.3 * np.sin(x + shift)[None, :] + high * np.sin(3 * x)[:, None]
        return gain * np.repeat(wave[:, :, None], 3, 2)

    a = waves(0)
    assert distance(a, a) == 0
    changed = waves(0.1, 1.03)
    plain = np.sqrt(np.square(changed - a).mean())
    assert distance(a, changed) < 0.15 * plain
    assert distance(a, changed) == pytest.approx(distance(changed, a))
    # Another pattern is at right angles to both changes, so nothing of it is taken out.
    assert distance(a, waves(0, high=0.05)) == pytest.approx(0.05 / np.sqrt(2), rel=1e-2)


def test_plain_pictures_are_compared_by_colour():
    white, grey, red = (Image.new("RGB", (9, 9), c) for c in ("white", "#808080", "red"))
    assert distinct([white, grey, red, white], 9, 9) == [[0, 3], [1], [2]]


def test_groups_keep_the_order_of_the_ranking():
    a, b, c = SCENES[:3]
    ranking = [a, jpeg(a, 75), b, None, shifted(a, 1, 0), None, jpeg(b, 75), c]
    assert distinct(ranking, 10, 100) == [[0, 1, 4], [2, 6], [3], [5], [7]]


def test_without_pictures_nothing_is_grouped():
    assert distinct([None] * 5, 3, 30) == [[0], [1], [2]]
    assert distinct([], 3, 30) == []


def test_reading_stops_when_there_are_enough_or_too_many():
    read = []

    def ranking(of):
        for i in count():
            read.append(i)
            yield of(i)

    a, b, c = SCENES[:3]
    assert distinct(ranking(lambda i: (a, a, b, a, c)[i]), 2, 99) == [[0, 1, 3], [2]]
    assert read == [0, 1, 2, 3, 4]
    read.clear()
    assert distinct(ranking(lambda i: a), 2, 20) == [list(range(20))]
    assert len(read) == 20
