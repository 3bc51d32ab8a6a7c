"""Captions of a sample, and what its fingerprint holds."""

from collections import Counter

from headwater.data.training_set import Sample, caption_of, make_sample, make_training_set

THREE = make_sample("a", ["one", "two", "three", "two"], "a.png")


def test_a_sample_of_several_captions():
    assert THREE.caption == "one" and THREE.captions == ("one", "two", "three")
    assert make_sample("a", ["one", "one"], "a.png") == Sample("a", "one", "a.png")
    assert make_sample("a", [], "a.png") == Sample("a", "", "a.png")


def test_captions_are_drawn_by_a_key():
    drawn = [caption_of(THREE, f"seed 0 t {t}") for t in range(600)]
    assert drawn == [caption_of(THREE, f"seed 0 t {t}") for t in range(600)]
    assert all(150 < count < 250 for count in Counter(drawn).values()) and len(set(drawn)) == 3
    other = make_sample("b", THREE.captions, "b.png")
    assert drawn != [caption_of(other, f"seed 0 t {t}") for t in range(600)]
    assert caption_of(Sample("a", "only", "a.png"), "any key") == "only"


def test_the_fingerprint_sees_every_caption():
    def fingerprint(*captions):
        return make_training_set("x", [make_sample("a", captions, "a")], [1], print).fingerprint

    prints = [fingerprint("one"), fingerprint("one", "two"), fingerprint("one", "three")]
    assert len(set(prints)) == 3
