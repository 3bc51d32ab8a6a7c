"""What a page's controls hold: checked, asked, and brought back by a link."""

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as some

from headwater import Concept, Image
from headwater.errors import MethodError, QueryError
from headwater.methods.table import METHODS
from headwater.viewer.form import (
    MOST_CONCEPTS,
    MOST_LETTERS,
    SLIDER,
    Form,
    complements,
    complements_key,
    form_of,
    options_of,
    questions_of,
    settled,
    stages,
)
from headwater.viewer.links import form_of_link, link_of

PROMPT = "a red star in hatched style"
CONTROLS = {
    "index": "all",
    "prompt": f"  {PROMPT} ",
    "concepts": ["star", "red"],
    "phrase": "hatched style\n\nred star",
    "ask_for": "slider",
    "against": "a red in hatched style\na moon\n",
    "against_of": complements_key(PROMPT, ("star", "red", "hatched style", "red star")),
    "whole": True,
    "seed": 3.0,
    "guidance": 2,
    "shown": 5,
    "method": "",
    "damping": 0.0,
    "draws": 16,
    "where": "caption contains star\n\n",
    "group_by": "",
    "left_out": ["a.png"],
}


def test_controls_become_questions():
    form = form_of(CONTROLS)
    same = {"draws": 16, "seed": 3}
    assert questions_of(form) == [
        Image(PROMPT, guidance=2.0, **same),
        Concept(PROMPT, "star", **same),
        Concept(PROMPT, "red", minus="a moon", **same),
        Concept(PROMPT, "hatched style", **same),
        Concept(PROMPT, "red star", **same),
    ]
    assert options_of(form) == {
        "method": None,
        "damping": None,
        "where": ("caption contains star",),
        "group_by": None,
        "left_out": ("a.png",),
    }


def test_what_was_not_edited_is_asked_as_ever():
    """Over captions, as a complement that a person writes never is."""
    concepts = ("star", "red")
    form = Form(PROMPT, concepts, tuple(complements(PROMPT, concepts).splitlines()))
    assert [question.minus for question in questions_of(form)] == [None, None]


@pytest.mark.parametrize("change", [{"prompt": "the red star in hatched style"},
                                    {"concepts": ["red", "star"]}])  # fmt: skip
def test_a_complement_of_another_prompt_or_other_words_is_not_asked(change):
    """It stands there until the page has answered, and nobody wrote it."""
    form = form_of(CONTROLS | change)
    assert form.against == ()
    assert all(getattr(question, "minus", None) is None for question in questions_of(form))


def test_what_is_asked_is_what_the_method_is_for_unless_somebody_says_it(sessions):
    index = sessions["all"].index  # of Concept-TRAK
    form = Form(PROMPT, ("star",))
    assert settled(form, index).ask == SLIDER
    assert settled(replace(form, method="ekfac"), index).ask == "contribution"
    said = replace(form, method="ekfac", ask=SLIDER)
    assert settled(said, index) == said
    edited = replace(form, method="ekfac", against=("a moon",))
    assert settled(edited, index).ask == SLIDER, "as of no other is the prompt without the words"
    (question,) = questions_of(settled(edited, index))
    assert (question.kind, question.minus) == ("concept", "a moon")


def test_the_first_answer_comes_early_where_draws_go_on(sessions):
    index = sessions["all"].index
    assert stages(index, Form(draws=32), ["concept"]) == [Form(draws=4), Form(draws=32)]
    assert stages(index, Form(draws=4), ["concept"]) == [Form(draws=4)]
    alone = Form(method="presence")
    assert stages(index, alone, ["concept"]) == [alone]
    with pytest.raises(MethodError):
        stages(index, Form(method="no such"), ["concept"])


def test_a_first_answer_is_by_the_method_that_its_row_names(sessions, monkeypatch):
    """At the damping of what is to come; a method that is added may have one too."""
    served = METHODS["concept-trak-unguided"]
    toy = replace(served, name="toy", sooner=served.name, damping=0.7)
    monkeypatch.setitem(METHODS, "toy", toy)
    form = Form(method="toy", draws=32)
    first = replace(form, method=served.name, draws=4, damping=0.7)
    assert stages(sessions["all"].index, form, ["concept"]) == [first, form]
    chosen = replace(form, damping=3.0)
    assert stages(sessions["all"].index, chosen, ["concept"])[0].damping == 3.0


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"concepts": ()}, "nothing is asked yet: write a prompt and choose words of it"),
        ({"concepts": ("moon",)}, "'moon' is not in the prompt"),
        ({"prompt": "star " * MOST_LETTERS}, "a text has more than 2,000 letters: shorten it"),
        ({"concepts": ("star",) * (MOST_CONCEPTS + 1)}, "9 concepts are more than 8: take fewer"),
        ({"where": ("caption is a",) * 9}, "9 conditions are more than 8: take fewer"),
        ({"seed": -1}, "seed -1 is out of its bounds, 0 to 2,147,483,647"),
        ({"draws": 257}, "draws 257 is out of its bounds, 1 to 256"),
        ({"shown": 0}, "images shown 0 is out of its bounds, 1 to 40"),
        ({"guidance": float("nan")}, "guidance is no number: give one from 0 to 100"),
        ({"damping": -0.1}, "damping -0.1 is out of its bounds, 0 to 1,000,000"),
        ({"group_by": "/etc/passwd.csv"}, "'/etc/passwd.csv' looks like a file: name a field"),
        ({"group_by": "groups.csv"}, "'groups.csv' looks like a file"),
    ],
)
def test_what_is_out_of_bounds_is_refused(changes, said):
    with pytest.raises(QueryError, match=said):
        questions_of(replace(Form(PROMPT, ("star",)), **changes))


@pytest.mark.parametrize("name", ["seed", "draws", "shown", "guidance"])
def test_controls_are_held_to_their_bounds(name):
    """Whatever is then done with them."""
    with pytest.raises(QueryError, match="is out of its bounds"):
        form_of(CONTROLS | {name: 10**10})


@pytest.mark.parametrize("name", ["seed", "draws", "shown", "guidance"])
def test_an_empty_number_is_named(name):
    with pytest.raises(QueryError, match="number: give one"):
        form_of({**CONTROLS, name: None})
    if name != "guidance":
        with pytest.raises(QueryError, match="is no whole number: give one"):
            form_of({**CONTROLS, name: 1.5})


TEXT = some.text(max_size=20)
FORMS = some.builds(
    Form,
    prompt=TEXT,
    concepts=some.lists(TEXT, max_size=3).map(tuple),
    against=some.lists(TEXT, max_size=3).map(tuple),
    ask=TEXT,
    whole=some.booleans(),
    seed=some.integers(0, 2**31 - 1),
    guidance=some.floats(0, 100),
    method=TEXT,
    damping=some.none() | some.floats(1e-6, 10),
    draws=some.integers(1, 256),
    where=some.lists(TEXT, max_size=3).map(tuple),
    group_by=TEXT,
    shown=some.integers(1, 40),
    left_out=some.lists(TEXT, max_size=3).map(tuple),
    index=TEXT,
)


@given(FORMS.filter(lambda form: str(form).isprintable()))
def test_a_link_brings_the_question_back(form):
    assert form_of_link(link_of(form)) == form


@given(some.text(max_size=200))
def test_any_link_is_read(link):
    form = form_of_link(link)
    assert form.picture is None and form.mask is None


def test_a_link_names_no_file():
    assert form_of_link("?picture=/etc/passwd&mask=/etc/passwd") == Form()
    form = replace(Form(PROMPT), picture="kept.png")
    assert dict(parse_qsl(link_of(form)[1:])) == {"prompt": PROMPT}


def test_what_a_link_holds_wrongly_is_as_usual():
    assert form_of_link("?seed=many&draws=8&whole=yes&guidance=warm") == Form(draws=8)
