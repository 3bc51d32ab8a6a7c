"""Questions about a picture: masks brought to latents by area, trajectories, what is refused."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from support.tiny import tiny_unconditional

from headwater import Concept, Denoiser, Local, build_index, load_dataset
from headwater.attribution.session import Session
from headwater.errors import QueryError
from headwater.models.sampling import draw, sample, seeded_noise
from headwater.models.schedule import evenly_spaced
from headwater.queries.image import Image, require_step
from headwater.queries.pictures.files import latent_mask, open_picture

PROMPT = "a red star"


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model)


def saved(path, array, mode=None):
    PIL.Image.fromarray(array, mode).save(path)
    return path


# --- masks --------------------------------------------------------------------------------------


def test_a_mask_is_brought_to_latents_by_area(denoiser, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    mask = latent_mask(denoiser, saved(tmp_path / "mask.png", grey), (16, 16))
    exact = grey.reshape(8, 2, 8, 2).mean((1, 3)) / 255  # each latent covers 2x2 pixels
    np.testing.assert_allclose(mask[0, 0].numpy(), exact, atol=1e-6)
    assert mask.shape == (1, 1, 8, 8) and mask.dtype == denoiser.latent_dtype


def test_a_mask_is_cropped_as_its_picture_is(denoiser, tmp_path):
    """Of 32x16 pixels the model sees the middle 16; the left half of the picture is 8 of them."""
    white = np.zeros((16, 32), np.uint8)
    white[:, :16] = 255
    mask = latent_mask(denoiser, saved(tmp_path / "mask.png", white), (32, 16))
    exact = torch.zeros(8, 8)
    exact[:, :4] = 1
    torch.testing.assert_close(mask[0, 0], exact)


def test_a_large_mask_keeps_its_share(denoiser, tmp_path):
    white = np.zeros((64, 64), np.uint8)
    white[16:48, 16:48] = 255
    mask = latent_mask(denoiser, saved(tmp_path / "mask.png", white), (64, 64))
    assert mask.mean() == pytest.approx(0.25, abs=0.01)
    assert (mask[..., 3:5, 3:5] > 0.99).all() and (mask[..., 0, :] < 0.01).all()


def test_what_is_transparent_does_not_count(denoiser, tmp_path):
    """White strokes on a layer of their own, as paint programs save them."""
    layer = np.full((16, 16, 4), 255, np.uint8)
    layer[..., 3] = 0
    layer[4:8, 4:8, 3] = 255
    mask = latent_mask(denoiser, saved(tmp_path / "mask.png", layer), (16, 16))
    exact = torch.zeros(8, 8)
    exact[2:4, 2:4] = 1
    torch.testing.assert_close(mask[0, 0], exact)


def test_masks_that_cannot_be(denoiser, tmp_path):
    small = saved(tmp_path / "small.png", np.full((8, 16), 255, np.uint8))
    with pytest.raises(QueryError, match=r"small.png' is 16x8, the picture is 16x16: paint it ov"):
        latent_mask(denoiser, small, (16, 16))
    black = saved(tmp_path / "black.png", np.zeros((16, 16), np.uint8))
    with pytest.raises(QueryError, match=r"black.png' is black all over: paint what counts"):
        latent_mask(denoiser, black, (16, 16))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(QueryError, match=r"text.png': it is no image"):
        latent_mask(denoiser, tmp_path / "text.png", (16, 16))
    with pytest.raises(QueryError, match=r"none.png': .*No such file"):
        latent_mask(denoiser, tmp_path / "none.png", (16, 16))
    for address in ("https://example.org/a.png", Path("https://example.org/a.png")):
        with pytest.raises(QueryError, match=r"'https://example.org/a.png' is on the web: downl"):
            latent_mask(denoiser, address, (16, 16))


# --- pictures -----------------------------------------------------------------------------------


def test_a_picture_is_the_end_of_its_trajectory(denoiser):
    picture = draw(denoiser, PROMPT, seed=3, guidance=3.0, steps=5)
    noise = seeded_noise(denoiser.latent_shape, 3, "query")[None]
    condition, empty = (denoiser.encode_captions([text]) for text in (PROMPT, ""))
    x0 = sample(denoiser, noise, condition, empty, steps=5, guidance=3.0)
    assert torch.equal(picture.noise, noise) and torch.equal(picture.x0, x0)
    assert list(picture.x0hats) == [999, 799, 599, 399, 199]
    assert torch.equal(picture.x0hats[199], x0)
    assert picture.image.tobytes() == denoiser.decode(x0)[0].tobytes()


def test_digests_tell_pictures_apart(denoiser, tiny_images):
    options = [(PROMPT, 0, 3.0), (PROMPT, 1, 3.0), (PROMPT, 0, 2.0), ("a fish", 0, 3.0)]
    pictures = [draw(denoiser, p, seed, g, 3) for p, seed, g in options]
    pictures += [open_picture(denoiser, tiny_images / f"train-0000{i}.png") for i in (1, 2)]
    assert len({picture.digest() for picture in pictures}) == 6
    assert draw(denoiser, PROMPT, 0, 3.0, 3).digest() == pictures[0].digest()


def test_a_file_is_encoded(denoiser, tiny_images):
    path = tiny_images / "train-00001.png"
    picture = Image(PROMPT, path).picture(denoiser)
    with PIL.Image.open(path) as image:
        assert torch.equal(picture.x0, denoiser.encode_images([image]))
    assert picture.noise is None and picture.x0hats == {}


@pytest.mark.parametrize("step, nearest", [(998, 999), (0, 19), (500, 499), (30, 39), (5000, 999)])
def test_a_step_outside_the_trajectory_names_the_nearest(denoiser, step, nearest):
    picture = draw(denoiser, PROMPT, 0, 1.0, 50)
    with pytest.raises(QueryError, match=rf"goes from 999 to 19 in 50: the nearest is {nearest}$"):
        require_step(picture, step)
    require_step(picture, nearest)
    assert nearest in evenly_spaced(50)


def test_what_cannot_be_asked(denoiser, tiny_images):
    with pytest.raises(QueryError, match="a file was made elsewhere: give --prompt and --seed"):
        Image(PROMPT, tiny_images / "train-00001.png", step=999)
    with pytest.raises(QueryError, match="--draws 0 must be at least 1"):
        Image(PROMPT, draws=0)
    with pytest.raises(QueryError, match="give a picture: a file, or --prompt and --seed"):
        Image().picture(denoiser)


def test_kinds_and_titles():
    kinds = {
        ("image", "the picture"): Image(PROMPT),
        ("patch", "the part inside the mask"): Image(PROMPT, mask="m.png"),
        ("step", "the picture at step 99"): Image(PROMPT, step=99),
        ("step", "the part inside the mask at step 99"): Image(PROMPT, mask="m.png", step=99),
    }
    for (kind, title), query in kinds.items():
        assert (query.kind, query.title) == (kind, title)


def test_provenance_knows_files_by_their_content(tmp_path, tiny_images):
    file = tiny_images / "train-00001.png"
    mask = saved(tmp_path / "mask.png", np.full((16, 16), 255, np.uint8))
    digest = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (file, mask)]
    assert Image(PROMPT, file, mask).details() == {
        "picture": str(file),
        "picture sha256": digest[0],
        "mask": str(mask),
        "mask sha256": digest[1],
        "prompt": PROMPT,
        "step": None,
    }
    made = Image(PROMPT, guidance=3.0, steps=7, step=99).details()
    assert made == {"picture": PROMPT, "prompt": PROMPT, "guidance": 3.0, "steps": 7, "step": 99}


# --- answers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory, denoiser, tiny_images):
    out = tmp_path_factory.mktemp("pictures") / "index"
    data = load_dataset(tiny_images).first(6)
    options = dict(method="trak", parameters="attn2-kv", timesteps=2, dim=64)
    return build_index(denoiser, data, out, **options)


@pytest.mark.parametrize("method", ["trak", "journey-trak", "gradient-dot"])
def test_a_picture_is_the_sum_of_its_parts(index, tmp_path, method):
    """Delta is linear in the mask, so are the scores: all of it, or two halves together."""
    left = np.zeros((16, 16), np.uint8)
    left[:, :7] = 255  # not along the latents' edges
    masks = {"left": left, "right": 255 - left, "all": np.full_like(left, 255)}

    def scores(name=None):
        mask = None if name is None else saved(tmp_path / f"{name}.png", masks[name])
        query = Image(PROMPT, mask=mask, draws=2, steps=4, step=None)
        return index.attribute(query, method=method).scores

    whole = scores()
    scale = dict(rtol=0, atol=1e-4 * np.abs(whole).max())
    np.testing.assert_allclose(scores("all"), whole, **scale)
    parts = scores("left"), scores("right")
    np.testing.assert_allclose(sum(parts), whole, **scale)
    assert np.abs(parts[0] - whole).max() > 0.1 * np.abs(whole).max()


def test_a_part_is_asked_of_concept_trak_by_what_its_prompt_makes_there(
    denoiser, tiny_images, tmp_path
):
    """With draws, and so with errors; a picture without a prompt is inverted as a whole one is."""
    data = load_dataset(tiny_images).first(6)
    options = dict(parameters="attn2-kv", timesteps=2, dim=64)
    index = build_index(denoiser, data, tmp_path / "index", method="concept-trak", **options)
    left = np.zeros((16, 16), np.uint8)
    left[:, :7] = 255
    mask, other = (
        saved(tmp_path / f"{n}.png", m) for n, m in (("left", left), ("right", 255 - left))
    )
    file = saved(tmp_path / "picture.png", np.full((16, 16, 3), 90, np.uint8))

    made = index.attribute(Image(PROMPT, file, mask, draws=3))
    assert made.asked == "of the part inside the mask, as its prompt makes it"
    assert made.provenance["query"]["draws"] == 3 and made.certainty is not None
    elsewhere = index.attribute(Image(PROMPT, file, other, draws=3)).scores
    assert np.abs(made.scores - elsewhere).max() > 1e-3 * np.abs(made.scores).max()

    for prompt in ("", "  "):
        plain = index.attribute(Image(prompt, file, mask))
        assert plain.asked == "of the part inside the mask" and plain.certainty is None

    # Without unit norms the slider is linear in its mask: two halves make the whole of it.
    other_index = build_index(denoiser, data, tmp_path / "b", method="concept-trak-b", **options)
    white = saved(tmp_path / "white.png", np.full_like(left, 255))
    parts = [
        other_index.attribute(Image(PROMPT, file, each, draws=2), method="concept-trak-b").scores
        for each in (mask, other, white)
    ]
    np.testing.assert_allclose(
        parts[0] + parts[1], parts[2], rtol=0, atol=1e-4 * np.abs(parts[2]).max()
    )
    whole = other_index.attribute(Image(PROMPT, file, draws=2), method="concept-trak-b").scores
    assert np.abs(whole - parts[2]).max() > 0.1 * np.abs(whole).max()


def test_random_is_random_for_each_picture(index, tmp_path):
    files = [saved(tmp_path / f"{n}.png", np.full((16, 16, 3), n, np.uint8)) for n in (10, 200)]
    one, other = (index.attribute(Image(PROMPT, f), method="random").scores for f in files)
    assert not np.allclose(one, other)
    again = index.attribute(Image(PROMPT, files[0]), method="random").scores
    assert np.array_equal(one, again)
    parts = [Local(Concept(PROMPT, "star"), file) for file in files]
    one, other = (index.attribute(part, method="random").scores for part in parts)
    assert not np.allclose(one, other)
    with pytest.raises(QueryError, match=r"gone\.png"):
        index.attribute(Local(Concept(PROMPT, "star"), tmp_path / "gone.png"), method="random")


def test_what_a_step_is_of(index):
    """Of what the making aimed at where that is re-noised, else of the finished picture."""
    query = Image(PROMPT, draws=1, steps=4, step=499)
    aimed, noised = (index.attribute(query, method=name) for name in ("journey-trak", "trak"))
    assert aimed.asked == "of the picture at step 499"
    assert noised.asked == "of the picture, finished and noised as at step 499"
    assert noised.provenance["query"]["step"] == 499


def test_a_picture_is_drawn_once(index, monkeypatch):
    """In one session, and then from the index's folder, to the last bit."""
    drawn = []
    own = Image.picture

    def counted(query, denoiser):
        drawn.append(query)
        return own(query, denoiser)

    monkeypatch.setattr(Image, "picture", counted)
    session, query = Session(index), Image("a fish", seed=5, steps=2)
    picture = session.picture(query)
    assert picture is session.picture(replace(query, draws=1))
    assert picture is not session.picture(replace(query, seed=6))
    assert len(drawn) == 2
    kept = Session(index).picture(query)
    assert len(drawn) == 2 and kept.digest() == picture.digest()
    assert torch.equal(kept.noise, picture.noise) and (kept.guidance, kept.steps) == (5.0, 2)
    assert kept.image.tobytes() == picture.image.tobytes()


def test_a_file_is_known_by_what_it_holds(index, tmp_path):
    """Overwritten, it is another picture: in the same session too."""
    file, session = tmp_path / "q.png", Session(index)
    query = Image(PROMPT, saved(file, np.full((16, 16, 3), 10, np.uint8)), draws=2)
    first = session.attribute(query)
    saved(file, np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    second = session.attribute(query)
    digests = [each.provenance["query"]["picture sha256"] for each in (first, second)]
    assert digests[0] != digests[1] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert np.abs(first.scores - second.scores).max() > 1e-3 * np.abs(first.scores).max()
    fresh = Session(index).attribute(query, fresh=True).scores
    np.testing.assert_allclose(second.scores, fresh, rtol=0, atol=1e-5 * np.abs(fresh).max())


def test_a_model_without_prompts_draws_from_the_seed_alone(tmp_path, tiny_images):
    model = Denoiser.load(tiny_unconditional(tmp_path / "ddpm"))
    data = load_dataset(tiny_images).first(3)
    options = dict(method="journey-trak", parameters="mid_block", timesteps=1, dim=32)
    index = build_index(model, data, tmp_path / "index", **options)
    one, two = (index.attribute(Image(seed=seed, draws=1, steps=2)).scores for seed in (0, 1))
    assert np.abs(one - two).max() > 1e-3 * np.abs(one).max()
