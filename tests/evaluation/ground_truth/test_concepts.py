"""Truth sets: what is true of the scenes, and what a file says."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest

from headwater.data.training_set import Sample, make_training_set
from headwater.errors import HeadwaterWarning, QueryError
from headwater.evaluation.ground_truth.concepts import read_truths, scene_prompts
from headwater.evaluation.ground_truth.label_noise import plant_label_noise
from headwater.queries.prompts import contains
from headwater.scenes.dataset import pictures
from headwater.scenes.vocabulary import ATTRIBUTES, held_out_triples

WORDS = [word for values in ATTRIBUTES.values() for word in values]


def scenes(n: int) -> list[Sample]:
    """As an index of a folder of them holds them."""
    return [Sample(f"{p.id}.png", p.caption, "") for p in pictures()[:n]]


# --- scenes -------------------------------------------------------------------------------------


def test_the_truth_of_the_scenes():
    truths, captions = read_truths("scenes", scenes(120)), [p.caption for p in pictures()[:120]]
    assert [truth.concept for truth in truths] == WORDS
    for truth in truths:
        said = [word for word in WORDS if word in truth.prompt.split()]
        assert set(said) == {truth.concept, *truth.others} and len(said) == 4
        assert not truth.ambiguous.any()
        assert truth.names.tolist() == [truth.concept in caption.split() for caption in captions]
        assert (truth.shows | ~truth.names).all()  # no caption of the scenes is false
        for word, shows in truth.others.items():
            assert (shows == next(t.shows for t in truths if t.concept == word)).all()
    named, shown = (np.sum([getattr(t, of) for t in truths]) for of in ("names", "shows"))
    assert named / shown == pytest.approx(0.8, abs=0.05)  # a fifth of them leave it out
    by_attribute = [[t.shows for t in truths if t.concept in v] for v in ATTRIBUTES.values()]
    assert all((np.sum(shows, 0) == 1).all() for shows in by_attribute)


def test_prompts_are_those_of_the_seed():
    found = list(scene_prompts())
    assert found == list(scene_prompts("train", 0)) != list(scene_prompts("train", 1))
    # As every table so far was made with; another choice would be another table.
    assert found[0] == (
        "red",
        "a red arrow in dotted style on a striped background",
        ["arrow", "dotted", "striped"],
    )


def test_unseen_prompts_name_what_no_training_picture_shows():
    truths = read_truths("scenes:unseen", scenes(120))
    for truth in truths:
        words = {truth.concept, *truth.others}
        triple = tuple(
            next(iter(words & set(ATTRIBUTES[name]))) for name in ("object", "colour", "style")
        )
        assert triple in held_out_triples()
    assert truths[0].shows.any()


def test_scenes_that_no_image_shows_are_left_out():
    with pytest.warns(HeadwaterWarning, match="no image of the index shows .*: left out") as said:
        truths = read_truths("scenes", scenes(3))
    shown = {word for picture in pictures()[:3] for word in WORDS if picture.shows(word)}
    assert {truth.concept for truth in truths} == shown
    assert all(word in str(said[0].message) for word in set(WORDS) - shown)


def test_strange_images_and_splits():
    with pytest.raises(QueryError, match="the image 'cat' is none of the scenes: give the truth"):
        read_truths("scenes", [*scenes(3), Sample("cat.png", "a cat", "")])
    with pytest.raises(QueryError, match="no scenes:all; the splits are train, validation"):
        read_truths("scenes:all", scenes(3))


# --- a file -------------------------------------------------------------------------------------

SAMPLES = [
    Sample("cat-1", "a cat, inked", ""),
    Sample("cat-2", "a Cat on a mat", ""),
    Sample("cat-3", "a kitten, inked", ""),
    Sample("dog-1", "a dog, inked", ""),
    Sample("dog-2", "a dog catches a ball", ""),
    Sample("toy", "a cat-like toy", ""),
]
CAT = {"concept": "cat", "kind": "ignored", "positives": ["cat-1", "cat-2", "cat-3"],
       "ambiguous": ["toy"]}  # fmt: skip
DOG = {"concept": "dog", "positives": ["dog-1", "dog-2"]}
INKED = {"concept": "inked", "positives": ["cat-1", "cat-3", "dog-1"], "ambiguous": []}


def truths(tmp_path, *entries: object):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(entries))
    return read_truths(str(path), SAMPLES)


def test_a_file(tmp_path):
    cat, dog, inked = truths(tmp_path, CAT, DOG, INKED)
    assert cat.shows.tolist() == [True, True, True, False, False, False]
    assert cat.ambiguous.tolist() == [False] * 5 + [True]
    assert cat.names.tolist() == [True, True, False, False, False, True]  # whole words, any case
    # Of the captions that name it one that names another concept too.
    assert (cat.prompt, list(cat.others)) == ("a cat, inked", ["inked"])
    assert (dog.prompt, list(dog.others)) == ("a dog, inked", ["inked"])
    assert (cat.others["inked"] == inked.shows).all()
    assert inked.prompt in ("a cat, inked", "a dog, inked") and len(inked.others) == 1


def test_the_prompt_does_not_depend_on_the_order_of_the_images(tmp_path):
    names = [f"image-{i}" for i in range(40)]
    samples = [Sample(name, f"a cat on {name}", "") for name in names]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps([{"concept": "cat", "positives": names}]))
    (own,) = read_truths(str(path), samples)
    random.Random(0).shuffle(samples)
    (shuffled,) = read_truths(str(path), samples)
    assert own.prompt == shuffled.prompt
    path.write_text(json.dumps([{"concept": "a cat", "positives": names}]))
    assert read_truths(str(path), samples)[0].prompt != own.prompt  # seeded by the concept


def test_prompts_and_others_may_be_given(tmp_path):
    given = {**CAT, "prompt": "a cat and a dog, inked", "others": ["dog"]}
    cat, *_ = truths(tmp_path, given, DOG, INKED)
    assert (cat.prompt, list(cat.others)) == ("a cat and a dog, inked", ["dog"])
    cat, *_ = truths(tmp_path, {**given, "others": None}, DOG, INKED)
    assert set(cat.others) == {"dog", "inked"}
    cat, *_ = truths(tmp_path, {**given, "others": []}, DOG, INKED)
    assert not cat.others


def test_words_within_the_concepts_own_are_no_other_concept(tmp_path):
    mat = {"concept": "a mat", "positives": ["cat-2"]}
    whole, part = truths(tmp_path, mat, {**mat, "concept": "mat"})
    assert not whole.others and list(part.others) == ["a mat"]


def test_what_no_caption_names_is_left_out_unless_it_has_a_prompt(tmp_path):
    pet = {"concept": "pet", "positives": ["cat-1", "dog-1"]}
    ball = {"concept": "ball", "positives": ["dog-1"]}  # named, but not where it is shown
    with pytest.warns(HeadwaterWarning, match="names pet, ball: left out, give a `prompt`"):
        (dog,) = truths(tmp_path, pet, DOG, ball)
    assert dog.concept == "dog"
    (pet,) = truths(tmp_path, {**pet, "prompt": "a pet"})
    assert pet.prompt == "a pet" and not pet.names.any()
    with (
        pytest.warns(HeadwaterWarning),
        pytest.raises(QueryError, match="holds no concept that can be asked for"),
    ):
        truths(tmp_path, ball)


REFUSED = {
    "no list": (CAT, "truth.json is no list of concepts"),
    "empty": ([], "is no list of concepts"),
    "no object": (["cat"], "entry 1 has no `concept`"),
    "no words": ([{**CAT, "concept": " "}], "entry 1 has no `concept`"),
    "positives": ([DOG, {**CAT, "positives": "cat-1"}], "entry 2: its `positives` are no list"),
    "prompt": ([{**CAT, "prompt": 3}], "entry 1: its `prompt` is no text"),
    "no positives": ([{**CAT, "positives": []}], "'cat' has no `positives`: name images that"),
    "no such id": (
        [{**CAT, "positives": ["cat-9"]}],
        "'cat-9', of 'cat', is not one of the 6 images",
    ),
    "no such ambiguous": (
        [{**CAT, "ambiguous": ["x"]}],
        "'x', of 'cat', is not one of the 6 images",
    ),
    "both": ([{**CAT, "ambiguous": ["cat-1"]}], "'cat-1' is both positive and ambiguous for 'cat'"),
    "twice": ([CAT, CAT], "has the concept 'cat' twice"),
    "other": ([{**CAT, "others": ["dog"]}], "'dog', one of the `others` of 'cat', is no other con"),
    "itself": ([{**CAT, "others": ["cat"]}], "'cat', one of the `others` of 'cat', is no other co"),
    "another prompt": ([{**CAT, "prompt": "a dog"}], "the prompt 'a dog' does not name 'cat'"),
}


@pytest.mark.parametrize("content, said", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, content, said):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    with pytest.raises(QueryError) as refused:
        read_truths(str(path), SAMPLES)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [None, b"\xff", b"[{"])
def test_unreadable(tmp_path, content):
    path = tmp_path / "truth.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        QueryError, match=r"cannot read the truth .*: give `scenes`, or a JSON file"
    ):
        read_truths(str(path), SAMPLES)


# --- false captions -----------------------------------------------------------------------------


def scenes_data(n: int):
    drawn = pictures()[:n]
    samples = [Sample(p.id, p.caption, "") for p in drawn]
    return make_training_set("scenes", samples, [0] * n, lambda row: drawn[row].draw())


def test_planted_captions_name_one_thing_that_is_not_shown():
    data = scenes_data(150)
    false = plant_label_noise(data, 0.2, seed=1)
    changed = [
        (picture, before.caption, after.caption)
        for picture, before, after in zip(pictures(), data.samples, false.samples, strict=False)
        if before != after
    ]
    assert len(changed) == 30
    for picture, before, after in changed:
        (lost,) = (word for word in WORDS if contains(before, word) and not contains(after, word))
        (new,) = (word for word in WORDS if contains(after, word) and not contains(before, word))
        assert picture.shows(lost) and not picture.shows(new)
        assert any(lost in values and new in values for values in ATTRIBUTES.values())
        words = after.split()
        for article, noun in pairwise(words):
            assert article not in ("a", "an") or (article == "an") == (noun[0] in "aeiou"), after
    assert {c[2].split()[0] for c in changed} == {"a", "an"}
    truths = read_truths("scenes", false.samples)
    assert sum(int((truth.names & ~truth.shows).sum()) for truth in truths) == 30


def test_planted_sets_are_sets_of_their_own():
    data = scenes_data(50)
    assert plant_label_noise(data, 0.0).fingerprint == data.fingerprint
    first, again, other = (
        plant_label_noise(data, 0.5),
        plant_label_noise(data, 0.5),
        plant_label_noise(data, 0.5, seed=1),
    )
    assert first.samples == again.samples != other.samples
    assert len({data.fingerprint, first.fingerprint, other.fingerprint}) == 3
    assert first.image(3).tobytes() == data.image(3).tobytes()


def test_planted_words_of_other_data():
    data = make_training_set("cats", SAMPLES, [], lambda row: None)
    false = plant_label_noise(data, 2 / 6, groups=[("kitten", "owl"), ("ball", "mat")])
    said = {s.id: s.caption for s in false.samples if s not in SAMPLES}
    possible = {
        "cat-2": "a Cat on a ball", "cat-3": "an owl, inked", "dog-2": "a dog catches a mat",
    }  # fmt: skip
    assert len(said) == 2 and said.items() <= possible.items()
    with pytest.raises(QueryError, match="6 false captions are asked for, and 3 of 6 captions of"):
        plant_label_noise(data, 1.0, groups=[("kitten", "owl"), ("ball", "mat")])
