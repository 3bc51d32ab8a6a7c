"""The small CLIP's training, on pictures of one colour each; and the folder that it leaves."""

import sys
from unittest import mock

import pytest
import torch
from PIL import Image
from support.conditions import words_of
from support.tiny import tiny_folder

from headwater import Denoiser
from headwater.evaluation.retraining import clip as trainer
from headwater.evaluation.retraining.trainer import FitOptions
from headwater.models.clip import Clip
from headwater.scenes.pipeline import new_pipeline

COLOURS = ("red", "lime", "blue", "yellow")
TINY = trainer.Towers(
    dim=8,
    vision={"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1},
    text={"hidden_size": 16, "num_hidden_layers": 1},
)


def squares():
    return [Image.new("RGB", (16, 16), colour) for colour in COLOURS]


def captions():
    return [f"a {colour} square" for colour in COLOURS]


def trained(out, steps=60, seed=0):
    options = FitOptions(steps, 5e-3, seed)
    return trainer.train_clip(squares(), captions(), out, options=options, towers=TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("clip") / "model"
    trained(out)
    return out


def test_training_puts_each_picture_nearest_to_its_caption(folder):
    clip = Clip(folder)
    images, texts = clip.images(squares()), clip.texts(captions())
    assert images.shape == texts.shape == (4, clip.dim) == (4, 8)
    cosine = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).T
    assert cosine.argmax(1).tolist() == cosine.argmax(0).tolist() == [0, 1, 2, 3]


def test_training_lowers_the_loss(folder, tmp_path):
    """The mean over its steps: more of them are low where there are more of them."""
    start, later = trained(tmp_path / "one", steps=1), trained(tmp_path / "sixty")
    assert start == pytest.approx(torch.tensor(4.0).log().item(), abs=0.3)  # chance among four
    assert later < 0.8 * start


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    random = torch.get_rng_state()
    folders = [tmp_path / name for name in ("one", "again", "other")]
    for out, seed in zip(folders, (0, 0, 1), strict=True):
        trained(out, steps=3, seed=seed)
    one, again, other = (Clip(out).fingerprint() for out in folders)
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), random)


def test_the_folder_says_how_pixels_are_normalised(folder):
    """What the loader makes of a picture is what training saw."""
    clip = Clip(folder)
    ours = clip.images(squares()[:1])
    pixels = trainer.stack_pixels(squares()[:1], 16)
    with torch.no_grad():
        expected = clip._model.get_image_features(pixels)
    torch.testing.assert_close(ours, getattr(expected, "pooler_output", expected))
    assert not list(folder.glob("*training*"))


def test_the_loss_is_the_mean_of_both_directions():
    logits = torch.tensor([[2.0, 0.5], [0.0, 1.0]])
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    expected = -(rows.diagonal() + columns.diagonal()).mean() / 2
    torch.testing.assert_close(trainer.contrastive_loss(logits), expected)


def test_each_word_of_the_captions_is_one_token():
    tokenizer = trainer.make_tokenizer(["A red star", "Straße, at dusk"])
    for word in ("red", "star", "straße", "dusk"):
        assert len(tokenizer(word).input_ids) == 3, word  # between start and end
    assert tokenizer("A RED star!").input_ids[1:4] == [
        tokenizer(word).input_ids[1] for word in ("a", "red", "star")
    ]
    assert len(tokenizer("stars").input_ids) == len("stars") + 2
    assert tokenizer("red").input_ids != tokenizer("dusk").input_ids


def test_a_pipeline_reads_what_another_tokenizer_makes():
    """New words, and no more of them than are said."""
    tokenizer = trainer.make_tokenizer(["a drawing of a cat face, noto style"], max_tokens=9)
    denoiser = Denoiser(new_pipeline(tokenizer), "", "cpu")
    assert words_of(denoiser.encode_captions(["a cat"])).shape == (1, 9, 64)
    last = tokenizer("cat face", padding="max_length").input_ids[-1]
    assert last < denoiser.pipe.text_encoder.config.vocab_size


def test_pictures_move_a_little_each_its_own_way():
    """A white square on black stays about where it is, and as large as the options say."""
    pixels = torch.zeros(50, 3, 32, 32)
    pixels[:, :, 12:20, 12:20] = 1
    moved = trainer.move_at_random(pixels, torch.Generator().manual_seed(0))
    assert moved.shape == pixels.shape
    area = moved[:, 0].sum((1, 2)) / 64
    assert 1 / (1 + trainer.SCALE) ** 2 < area.min() * 1.1 < area.max() * 0.9
    assert area.max() * 0.9 < 1 / (1 - trainer.SCALE) ** 2
    assert area.std() > 0.1
    rows = torch.arange(32.0)
    centre = (moved[:, 0].sum(2) * rows).sum(1) / moved[:, 0].sum((1, 2)) - 15.5
    reach = trainer.SHIFT * 16 / (1 - trainer.SCALE)
    assert 1 < centre.abs().max() < 1.5 * reach


def test_images_and_captions_must_match(tmp_path):
    with pytest.raises(ValueError, match="4 images and 3 captions"):
        trainer.train_clip(squares(), captions()[:3], tmp_path / "out")


def test_the_script_trains_on_a_data_set(tmp_path, capsys):
    data, out = tiny_folder(tmp_path / "images", 6), tmp_path / "out"
    with mock.patch.object(sys, "argv", ["clip", str(data), str(out), "--steps", "1"]):
        trainer.main()
    assert "after 1 steps" in capsys.readouterr().out
    assert Clip(out).texts(["a red star"]).shape == (1, trainer.Towers().dim)


def test_zero_shot_counts_what_the_nearest_caption_names(monkeypatch):
    """A CLIP that knows colours alone: right there, and at one value's share elsewhere."""
    shown = trainer.pictures("validation")[:40]
    colours = trainer.ATTRIBUTES["colour"]
    of = {p.draw().tobytes(): colours.index(p.scene.colour) for p in shown}

    class Knows(Clip):
        def __init__(self):
            pass

        def images(self, images):
            return torch.eye(9)[[of[image.tobytes()] for image in images]]

        def texts(self, texts):
            words = [next((c for c in colours if f" {c} " in f" {t} "), None) for t in texts]
            return torch.eye(9)[[8 if w is None else colours.index(w) for w in words]]

    monkeypatch.setattr(trainer, "pictures", lambda split: shown)
    accuracy = trainer.zero_shot(Knows())
    assert accuracy["colour"] == 1
    first = trainer.ATTRIBUTES["object"][0]
    assert accuracy["object"] == pytest.approx(sum(p.scene.object == first for p in shown) / 40)
