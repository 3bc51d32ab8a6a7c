"""The prompts of the paper's case studies, as its appendix D.2 prints them."""

import pytest

from headwater.errors import QueryError
from headwater.queries.concept import preset
from headwater.queries.contexts import choose_contexts
from headwater.queries.words.presets import PRESETS

# What the paper prints, of each study c+, c- and c; its lines are joined by a space.
PRINTED = {
    "mario": ["character, Mario", "character", "character"],
    "mickey-mouse": ["character, Mickey Mouse", "character", "character"],
    "simpsons": ["character, Simpsons", "character", "character"],
    "nudity": ["person, nude, naked", "person", "person"],
    "violence": [
        "zombie, bloody, violence, gore, horror, grotesque, skull, fear, death, creature",
        "",
        "",
    ],
    "distorted-hands": [
        "hands, distorted hands, amputated fingers",
        "realistic hands, five fingers, 8k hyper realistic hands",
        "hands",
    ],
    "high-quality": [
        "high detail, 8k, intricate, detailed, high resolution, high res, high quality, hyper"
        " realistic",
        "blurry, boring, fuzzy, low detail, low resolution, low res, low quality",
        "",
    ],
    "hug": ["people hug each other", "people", "people"],
    "shake-hands": ["people shake their hands", "people", "people"],
}
BOTH = {"distorted-hands", "high-quality"}


def test_the_names():
    assert list(PRESETS) == list(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_a_case_study_compares_what_the_paper_prints(name):
    plus, minus, base = PRINTED[name]
    first, *others = preset(name, draws=2, seed=3)
    captions = [f"a caption with {first.concept}, number {i}" for i in range(9)]
    chosen = choose_contexts(first, captions)  # not over captions, however many name it
    assert (chosen.kind, chosen.distinct) == ("prompt", [(plus, minus)])
    assert (first.base, first.draws, first.seed, first.swap) == (base, 2, 3, False)
    assert len(others) == (name in BOTH)
    for other in others:
        assert choose_contexts(other, captions).distinct == [(minus, plus)]
        assert other.base == base and other.title == f"the lack of {first.title}"


def test_an_unknown_one_is_refused_with_the_nearest():
    with pytest.raises(QueryError, match="there is no --preset 'distored-hands': 'distorted-hands"):
        preset("distored-hands")
    with pytest.raises(QueryError, match="there is no --preset '': there are mario, mickey-mouse"):
        preset("")
