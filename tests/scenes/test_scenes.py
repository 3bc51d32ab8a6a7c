"""The scenes: what is drawn is what is said, nothing held out is shown, and all of it is fixed."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from headwater.queries.words.prompts import contains
from headwater.scenes.dataset import OMIT, SPLITS, Split, describe, pictures, write_image_folder
from headwater.scenes.pipeline import new_tokenizer
from headwater.scenes.render import Scene, draw
from headwater.scenes.vocabulary import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    OBJECTS,
    STYLES,
    attribute_of,
    held_out_triples,
)

WORDS = [word for values in ATTRIBUTES.values() for word in values]


def triple(scene):
    return scene.object, scene.colour, scene.style


def test_a_tenth_of_the_triples_is_held_out():
    held_out = held_out_triples()
    assert len(held_out) == 48
    for split, spec in SPLITS.items():
        shown = {triple(p.scene) for p in pictures(split)}
        assert shown <= held_out if spec.unseen else not shown & held_out


def test_every_word_is_seen_in_training_about_equally_often():
    shown = pictures("train")
    assert len(shown) == 2000
    for values in ATTRIBUTES.values():
        counts = [sum(p.shows(value) for p in shown) for value in values]
        assert min(counts) > 0.8 * 2000 / len(values)


def test_pictures_and_ids_are_all_different():
    for split in ("train", "validation", "unseen"):
        shown = pictures(split)
        assert len({p.id for p in shown}) == len({p.scene for p in shown}) == SPLITS[split].size


def test_captions_say_nothing_false_and_leave_out_a_fifth():
    said = Counter()
    for p in pictures("train"):
        for word in WORDS:
            if contains(p.caption, word):
                assert p.shows(word), (p.caption, p.scene)
                said[attribute_of(word)] += 1
    for attribute in ATTRIBUTES:
        assert said[attribute] / 2000 == pytest.approx(1 - OMIT, abs=0.03)


@pytest.mark.parametrize(
    "said, caption",
    [
        ({}, "a shape"),
        ({"object": "arrow"}, "an arrow"),
        ({"colour": "orange"}, "an orange shape"),
        ({"object": "star", "background": "wavy"}, "a star on a wavy background"),
        (
            {"object": "star", "colour": "red", "style": "hatched", "background": "striped"},
            "a red star in hatched style on a striped background",
        ),
    ],
)
def test_describe(said, caption):
    assert describe(**said) == caption


def test_the_same_scene_gives_the_same_pixels():
    scene = pictures("train")[7].scene
    assert draw(scene).tobytes() == draw(scene).tobytes()


def test_every_attribute_changes_the_picture():
    """All 4,800 combinations would be slow: all values of each attribute, the others fixed."""
    plain = {"object": "star", "colour": "red", "style": "flat", "background": "plain"}
    for attribute, values in ATTRIBUTES.items():
        drawn = {hashlib.sha256(draw(Scene(**{**plain, attribute: v})).tobytes()) for v in values}
        assert len(drawn) == len(values)


def test_a_flat_object_has_its_colour_and_its_place():
    image = np.asarray(draw(Scene("house", "blue", "flat", "plain", x=0.3, y=0.6, radius=0.2)))
    blue = (abs(image.astype(int) - [40, 80, 215]) < 12).all(2)
    y, x = np.nonzero(blue)
    assert (x.min(), x.max()) == pytest.approx(
        (64 * 0.11, 64 * 0.49), abs=2.5
    )  # the eaves end in points
    assert (y.min(), y.max()) == pytest.approx((64 * 0.41, 64 * 0.77), abs=1.5)


def test_edges_are_smooth():
    image = np.asarray(draw(Scene("heart", "red", "flat", "plain")).convert("L")).astype(int)
    assert len(np.unique(image)) > 10  # 4x4 samples a pixel give 17 shades


def test_the_image_folder_holds_what_the_reader_draws(tmp_path, monkeypatch):
    monkeypatch.setitem(SPLITS, "validation", Split(3, seed=1))
    folder = write_image_folder(tmp_path, "validation")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row, picture in zip(rows, pictures("validation"), strict=True):
        assert (row["text"], row["object"]) == (picture.caption, picture.scene.object)
        assert Image.open(folder / row["file_name"]).tobytes() == picture.draw().tobytes()


def test_every_word_is_one_token_and_other_words_still_work():
    tokenizer = new_tokenizer()
    for word in [*WORDS, "a", "an", "shape", "style", "background", "in", "on"]:
        assert len(tokenizer(word).input_ids) == 3, word
    assert tokenizer.decode(tokenizer("zebra crossing!").input_ids[1:-1]) == "zebra crossing !"
    longest = max(len(tokenizer(p.caption).input_ids) for p in pictures("train"))
    assert longest <= tokenizer.model_max_length


def test_unknown_words_and_splits():
    with pytest.raises(KeyError):
        attribute_of("zebra")
    with pytest.raises(KeyError):
        pictures("nowhere")


def test_the_numbers_of_the_readme():
    assert (len(OBJECTS), len(COLOURS), len(STYLES), len(BACKGROUNDS)) == (10, 8, 6, 6)
