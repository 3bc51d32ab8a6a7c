import pytest

from headwater.errors import HeadwaterWarning, QueryError
from headwater.queries.concept import Concept
from headwater.queries.contexts import choose_contexts
from headwater.queries.words.prompts import contains, without

PROMPT = "a red star in hatched style"
CAPTIONS = [
    "a blue star",
    "a star on a plain background",
    "a star on a plain background",
    "a green STAR in flat style",
    "a starlit background",
    "a red fish",
    "",
]


def ask(**changes):
    return Concept(PROMPT, concept="star", **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"concept": "fish"}, r"--concept 'fish' is not in the prompt"),
        ({"concept": " "}, "is not in the prompt"),
        ({"concept": "sta"}, "is not in the prompt"),
        (
            {"concept": "stars"},
            "is not in the prompt 'a red star .*': it holds 'star', so give that",
        ),
        ({"concept": "star", "minus": PROMPT + " "}, "equals the prompt"),
        ({"concept": "star", "draws": 0}, "--draws 0 must be at least 1"),
    ],
)
def test_questions_that_make_no_sense(changes, message):
    with pytest.raises(QueryError, match=message):
        Concept(PROMPT, **changes)


@pytest.mark.parametrize(
    ("prompt", "concept", "near"),
    [
        ("two red stars on a hill", "star", "it holds 'stars', so give that"),
        ("a tshirt", "t-shirt", "it holds 'tshirt', so give that"),
        ("a red hill", "star", "give words of the prompt"),
    ],
)
def test_a_refusal_names_the_form_that_the_prompt_holds(prompt, concept, near):
    with pytest.raises(QueryError, match=f"is not in the prompt {prompt!r}: {near}"):
        Concept(prompt, concept)


def test_captions_that_hold_another_form_are_counted_in_a_warning():
    captions = ["two red stars on a hill"] * 12 + ["a red hill"]
    with pytest.warns(
        HeadwaterWarning,
        match=r"'star' is in 0 training captions, too few .*; there is 'stars' in 12: ask for that",
    ):
        chosen = choose_contexts(ask(draws=2), captions)
    assert chosen.kind == "bare"


def test_auto_asks_over_the_captions_that_name_the_concept():
    chosen = choose_contexts(ask(draws=3), CAPTIONS)
    assert chosen.kind == "captions"
    assert {plus for plus, _ in chosen.pairs} == {CAPTIONS[0], CAPTIONS[1], CAPTIONS[3]}
    for plus, minus in chosen.pairs:
        assert minus == without(plus, "star") and not contains(minus, "star")


def test_every_context_comes_before_any_comes_twice():
    pairs = choose_contexts(ask(draws=7), CAPTIONS).pairs
    assert len(pairs) == 7
    assert sorted(pairs.count(pair) for pair in set(pairs)) == [2, 2, 3]


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_the_captions():
    many = [f"a star number {i}" for i in range(50)]
    assert choose_contexts(ask(), many) == choose_contexts(ask(), many[::-1])
    assert choose_contexts(ask(), many).pairs != choose_contexts(ask(seed=1), many).pairs


@pytest.mark.parametrize("captions", [[], ["a fish"], ["a star", "a blue star"]])
def test_auto_asks_for_the_bare_words_where_captions_are_few(captions):
    chosen = choose_contexts(ask(draws=2), captions)
    assert (chosen.kind, chosen.pairs) == ("bare", (("star", ""),) * 2)


@pytest.mark.parametrize("changes", [{"context": "prompt"}, {"minus": "a red in hatched style"}])
def test_the_papers_single_prompt(changes):
    chosen = choose_contexts(ask(draws=2, **changes), CAPTIONS)
    assert (chosen.kind, chosen.pairs) == ("prompt", ((PROMPT, "a red in hatched style"),) * 2)


def test_contexts_from_a_file(tmp_path):
    file = tmp_path / "contexts.txt"
    file.write_text("a blue star\n\na yellow star\ta yellow moon\n")
    chosen = choose_contexts(ask(draws=2, context=str(file)), CAPTIONS)
    assert set(chosen.pairs) == {("a blue star", "a blue"), ("a yellow star", "a yellow moon")}


@pytest.mark.parametrize(
    "text, message",
    [(None, "neither auto, prompt, bare nor a readable file"), ("\n", "holds no context"),
     ("a star\na fish\n", "line 2: c\\+ equals c-")],
)  # fmt: skip
def test_context_files_that_say_nothing(tmp_path, text, message):
    file = tmp_path / "contexts.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(QueryError, match=message):
        choose_contexts(ask(context=str(file)), CAPTIONS)


def test_the_lack_of_a_concept_exchanges_both_sides():
    plain, swapped = ask(draws=3), ask(draws=3, swap=True)
    assert (plain.title, swapped.title) == ("star", "the lack of star")
    assert plain.pair == (PROMPT, "a red in hatched style") == swapped.pair[::-1]
    there, lacking = (choose_contexts(query, CAPTIONS) for query in (plain, swapped))
    assert lacking.pairs == tuple(pair[::-1] for pair in there.pairs)
    assert lacking.words == f"{there.words}, c+ and c- exchanged"


def test_what_is_described_is_what_was_used():
    """Draws auto may use many contexts, and here uses five."""
    many = [f"a star number {i}" for i in range(50)]
    chosen = choose_contexts(ask(draws=None), many)
    assert len(chosen.pairs) == 256 and chosen.words.startswith("over 50 training captions")
    used = chosen.first(5)
    assert used == choose_contexts(ask(draws=5), many)
    assert used.words.startswith("over 5 training captions")
    assert choose_contexts(ask(draws=7), CAPTIONS).words.startswith("over 3 training captions")


def test_an_anchor_takes_the_place_of_the_words(tmp_path):
    assert ask(anchor="shape").complement == "a red shape in hatched style"
    auto = choose_contexts(ask(anchor="shape", draws=3), CAPTIONS)
    assert all("shape" in minus for _, minus in auto.pairs)
    assert "with and with 'shape' instead" in auto.words
    bare = choose_contexts(ask(anchor="shape", context="bare"), CAPTIONS)
    assert set(bare.pairs) == {("star", "shape")}
    (tmp_path / "file").write_text("a star\na big star\ta thing\n")
    given = choose_contexts(ask(anchor="oval", context=str(tmp_path / "file"), draws=2), CAPTIONS)
    assert set(given.pairs) == {("a star", "an oval"), ("a big star", "a thing")}
    with pytest.raises(QueryError, match="--minus is the whole of c-: leave it or --anchor out"):
        ask(anchor="shape", minus="a shape")
    with pytest.raises(QueryError, match="--anchor 'two star' names 'star' itself"):
        ask(anchor="two star")
    with pytest.raises(QueryError, match="anchor 3 is a int"):
        ask(anchor=3)


def test_a_minus_goes_with_one_prompt():
    with pytest.raises(QueryError, match="--minus goes with one prompt, not with --context bare"):
        ask(context="bare", minus="a shape")
