"""NDA through an index: a copy is found, in its place; nothing of the model counts."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

from headwater import Denoiser, Image, Session, build_index, from_images, write_answers
from headwater.attribution.scorers.content import nda
from headwater.attribution.scorers.content.patches import Noisy, Patches, owned
from headwater.errors import MismatchError, QueryError
from headwater.models.sampling import seeded_noise
from headwater.scenes.dataset import pictures

PLANTED = 5


@pytest.fixture(scope="module")
def images():
    return [picture.draw().resize((16, 16)) for picture in pictures("train")[:12]]


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model, images):
    data = from_images(images, ["a scene"] * 12)
    out = tmp_path_factory.mktemp("nda") / "index"
    return Session(build_index(Denoiser.load(tiny_model), data, out, method="pixel-dot"))


@pytest.fixture
def file(tmp_path, images):
    images[PLANTED].save(tmp_path / "planted.png")
    return tmp_path / "planted.png"


def test_a_picture_finds_itself(session, file, tmp_path):
    answer = session.attribute(Image(file=file), method="nda")
    assert answer.order()[0] == PLANTED
    facts = answer.provenance["query"]
    assert facts["nda"]["timestep"] == 100 and facts["patches"][0]["id"] == answer.top(1)[0].id
    assert answer.unsure == nda.ONCE and answer.asked == "of the pixels of the picture"
    json.dumps(answer.provenance)
    write_answers(session, [answer], tmp_path / "out", guidance=1.0, top=3)
    assert "Most of its patches" in (tmp_path / "out/report.html").read_text()


def test_the_score_is_the_mean_over_scales(session, file, images):
    """At the linear schedule's t = 100, of pictures from -1 to 1."""
    scores = session.attribute(Image(file=file), method="nda").scores
    arrays = [np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1 for image in images]
    stack = torch.from_numpy(np.stack(arrays))
    alpha_bar = 1.0
    for t in range(101):
        alpha_bar *= 1 - (1e-4 + t * (0.02 - 1e-4) / 999)
    a, s = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    noise = seeded_noise((3, 16, 16), 0, "nda", 100)
    noisy = Noisy(a * stack[PLANTED] + s * noise, a, s, torch.arange(256))
    exact = sum(
        owned(noisy, lambda: iter(enumerate(stack)), 12, Patches(7, scale, 100)).shares / 2
        for scale in (1, 2)
    )
    np.testing.assert_allclose(scores, exact, rtol=1e-3, atol=1e-4)


def test_a_part_of_a_picture_is_its_own_question(session, tmp_path, images):
    """Left half of one image, right half of another: the mask says whose patches count."""
    both, mask = images[3].copy(), PIL.Image.new("L", (16, 16))
    both.paste(images[8].crop((8, 0, 16, 16)), (8, 0))
    mask.paste(255, (0, 0, 6, 16))
    both.save(tmp_path / "both.png")
    mask.save(tmp_path / "left.png")
    mask.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "right.png")
    for side, row in (("left", 3), ("right", 8)):
        query = Image(file=tmp_path / "both.png", mask=tmp_path / f"{side}.png")
        answer = session.attribute(query, method="nda")
        assert answer.order()[0] == row
        assert answer.scores.sum() == pytest.approx(16 * 6, rel=0.01)
        assert (answer.provenance["query"]["patches"][0]["x"] < 0.5) == (side == "left")


def test_large_pictures_are_made_small_by_areas():
    image = PIL.Image.new("RGB", (128, 64))
    image.putpixel((0, 0), (255, 0, 0))
    small = nda.seen_small(image, 32)
    assert small.size == (32, 16)
    assert small.getpixel((0, 0)) == (16, 0, 0)  # a sixteenth of it
    assert nda.seen_small(image, 200).size == (128, 64)


def test_masks_that_cannot_be(session, file, tmp_path):
    PIL.Image.new("L", (16, 16)).save(tmp_path / "black.png")
    PIL.Image.new("L", (8, 8), 255).save(tmp_path / "small.png")
    with pytest.raises(QueryError, match="has no white"):
        session.attribute(Image(file=file, mask=tmp_path / "black.png"), method="nda")
    with pytest.raises(QueryError, match="is 8x8, the picture is 16x16"):
        session.attribute(Image(file=file, mask=tmp_path / "small.png"), method="nda")


def test_images_of_another_data_set_are_refused(session, file, images):
    other = from_images(images[::-1], ["a scene"] * 12, ids=[f"other-{i}" for i in range(12)])
    moved = Session.open(session.index.path, denoiser=session.denoiser, training_set=other)
    with pytest.raises(MismatchError, match="is not at row 0: build the index again"):
        moved.attribute(Image(file=file), method="nda")
