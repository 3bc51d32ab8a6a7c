"""Captions of a sample, and what its fingerprint holds."""

from headwater.data.training_set import Sample, make_sample, make_training_set

THREE = make_sample("a", ["one", "two", "three", "two"], "a.png")


def test_a_sample_of_several_captions():
    assert THREE.caption == "one" and THREE.captions == ("one", "two", "three")
    assert make_sample("a", ["one", "one"], "a.png") == Sample("a", "one", "a.png")
    assert make_sample("a", [], "a.png") == Sample("a", "", "a.png")


def test_the_fingerprint_sees_every_caption():
    def fingerprint(*captions):
        return make_training_set("x", [make_sample("a", captions, "a")], [1], print).fingerprint

    prints = [fingerprint("one"), fingerprint("one", "two"), fingerprint("one", "three")]
    assert len(set(prints)) == 3
