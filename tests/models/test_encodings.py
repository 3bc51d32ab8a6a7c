"""Images on their way in: encoded once, looked up by content."""

import os
import time

import pytest
import torch
from support.conditions import words_of
from support.tiny import tiny_unconditional

from headwater import Denoiser
from headwater.errors import HeadwaterWarning
from headwater.models.encodings import encode, remove_unfinished, warn_of_lost_words
from headwater.scenes.dataset import pictures

SHOWN = pictures("validation")[:4]
IMAGES, CAPTIONS = [p.draw() for p in SHOWN], [p.caption for p in SHOWN]


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model)


def counted(denoiser, monkeypatch):
    """How many images and captions were encoded, call by call."""
    calls = {"images": [], "captions": []}
    for what in calls:
        real = getattr(denoiser, f"encode_{what}")

        def encoder(items, *size, real=real, what=what):
            calls[what].append(len(items))
            return real(items, *size)

        monkeypatch.setattr(denoiser, f"encode_{what}", encoder)
    return calls


def test_what_is_kept_is_what_was_encoded(tmp_path, denoiser, monkeypatch):
    x0, condition = encode(denoiser, IMAGES, CAPTIONS)
    calls = counted(denoiser, monkeypatch)
    for _ in range(2):
        kept_x0, kept_condition = encode(denoiser, IMAGES, CAPTIONS, tmp_path)
        assert torch.equal(kept_x0, x0)
        assert torch.equal(words_of(kept_condition), words_of(condition))
    assert calls == {"images": [4], "captions": [4]}


def test_only_what_is_new_is_encoded(tmp_path, denoiser, monkeypatch):
    encode(denoiser, IMAGES[:2], CAPTIONS[:2], tmp_path)
    calls = counted(denoiser, monkeypatch)
    order = [3, 0, 2, 1, 0]
    x0, condition = encode(
        denoiser, [IMAGES[i] for i in order], [CAPTIONS[i] for i in order], tmp_path
    )
    assert calls == {"images": [2], "captions": [2]}
    monkeypatch.undo()
    exact_x0, exact_condition = encode(denoiser, IMAGES, CAPTIONS)
    torch.testing.assert_close(x0, exact_x0[order])
    torch.testing.assert_close(words_of(condition), words_of(exact_condition[order]))


def test_changed_pixels_other_weights_and_damage_are_new(
    tmp_path, denoiser, tiny_model, monkeypatch
):
    encode(denoiser, IMAGES[:1], CAPTIONS[:1], tmp_path)
    changed = IMAGES[0].copy()
    changed.putpixel((0, 0), (1, 2, 3))
    other = Denoiser.load(tiny_model)
    with torch.no_grad():
        other.pipe.vae.encoder.conv_in.weight += 1
    for model, image in ((denoiser, changed), (other, IMAGES[0])):
        calls = counted(model, monkeypatch)
        encode(model, [image], CAPTIONS[:1], tmp_path)
        assert calls["images"] == [1]
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    calls = counted(denoiser, monkeypatch)
    encode(denoiser, IMAGES[:1], CAPTIONS[:1], tmp_path)
    assert calls == {"images": [1], "captions": [1]}


def test_what_a_kill_left_goes_and_what_is_being_written_stays(tmp_path, denoiser):
    encode(denoiser, IMAGES[:1], CAPTIONS[:1], tmp_path)
    whole = sorted(tmp_path.rglob("*.safetensors"))
    assert len(whole) == 2
    long_ago = time.time() - 3600
    for file in whole:
        left = file.with_name(f"{file.name}.0123456789ab.part")
        left.write_bytes(b"half")
        os.utime(left, (long_ago, long_ago))
    now = whole[0].with_name("other.safetensors.0123456789ab.part")
    now.write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([*whole, now])


def test_a_model_without_captions(tmp_path):
    denoiser = Denoiser.load(tiny_unconditional(tmp_path / "model"))
    x0, condition = encode(denoiser, IMAGES, [""] * 4, tmp_path / "kept")
    assert condition is None
    torch.testing.assert_close(x0, denoiser.encode_images(IMAGES))


def test_captions_too_long_are_named_with_the_words_they_lose(tiny_model):
    denoiser, long = Denoiser.load(tiny_model, "cpu"), "a red star " * 30 + "beyond"
    with pytest.warns(HeadwaterWarning, match=r"1 caption\(s\) longer than the \d+ tokens.*red"):
        warn_of_lost_words(denoiser, ["a red star", long])
