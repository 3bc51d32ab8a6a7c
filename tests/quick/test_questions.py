"""What there is to ask of a picture or a prompt."""

import numpy as np
import pytest
from support.tiny import tiny_folder, tiny_pipeline, tiny_unconditional

from headwater import Concept, Contribution, Image, Session, session_of, why
from headwater.errors import MethodError, QueryError
from headwater.quick.questions import MOST_CONCEPTS, questions

PROMPT = "a red star on a striped background"


SMALL = {"timesteps": 2, "dim": 64}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("quick") / "photos", 6)


@pytest.fixture(scope="module")
def model(photos):
    return tiny_pipeline(photos.with_name("model"))


@pytest.fixture(scope="module")
def session(model, photos):
    """On an index whose method takes words as a direction."""
    return session_of(model, photos, None, {"method": "concept-trak-unguided", **SMALL})


@pytest.fixture(scope="module")
def usual(model, photos):
    """On one that is built where nothing is said."""
    return session_of(model, photos, None, SMALL)


def test_a_prompt_as_a_whole_and_each_thing_it_names():
    whole, *concepts = questions(PROMPT, seed=3, guidance=2.0)
    assert whole == Image(PROMPT, seed=3, guidance=2.0)
    assert concepts == [
        Concept(PROMPT, words, seed=3) for words in ("red", "star", "striped", "background")
    ]


def test_words_of_ones_own():
    assert questions(PROMPT, concepts=["striped"])[1:] == [Concept(PROMPT, "striped")]
    assert len(questions(PROMPT, concepts=[])) == 1
    with pytest.raises(QueryError, match="--concept 'fish' is not in the prompt"):
        questions(PROMPT, concepts=["fish"])


def test_no_more_than_people_read():
    prompt = " ".join(f"thing{letter}" for letter in "abcdefghijkl")
    assert len(questions(prompt)) == 1 + MOST_CONCEPTS


def test_a_picture_file(tmp_path):
    file = tmp_path / "mine.png"
    file.write_bytes(b"x")
    assert questions(file) == [Image("", file)]
    assert questions(file, prompt="a star")[1:] == [Concept("a star", "star")]
    with pytest.raises(QueryError, match=r"there is no picture '.*gone\.png': check the path, or"):
        questions(tmp_path / "gone.png")
    with pytest.raises(QueryError, match="--prompt says what a picture file is of: leave it out"):
        questions(PROMPT, prompt="a star")
    assert questions("x" * 5000)[0].prompt == "x" * 5000  # as a name of a file it is too long


def test_answers_are_those_of_the_questions(session):
    """As they are asked one by one."""
    answers = why(session, PROMPT, concepts=["red", "star"], guidance=2.0)
    exact = [
        session.attribute(each)
        for each in questions(PROMPT, concepts=["red", "star"], guidance=2.0)
    ]
    for ours, theirs in zip(answers, exact, strict=True):
        np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_words_are_asked_for_as_the_index_takes_them(session, usual, monkeypatch):
    """As what they gain, or as a direction; the guidance is of the picture as a whole."""
    monkeypatch.setattr(Session, "attribute", lambda self, question, **options: question)
    options = {"concepts": ["red", "star"], "seed": 3, "guidance": 2.0}
    whole = Image(PROMPT, seed=3, guidance=2.0)
    assert usual.index.recipe.method == "ekfac-presence"
    assert why(usual, PROMPT, **options) == [
        whole,
        *(Contribution(PROMPT, each, seed=3) for each in ("red", "star")),
    ]
    assert why(session, PROMPT, **options) == [
        whole, Concept(PROMPT, "red", seed=3), Concept(PROMPT, "star", seed=3)
    ]  # fmt: skip


def test_a_model_that_reads_no_prompts_is_asked_about_the_picture_alone(photos, tmp_path):
    """By the index that is built where nothing is said."""
    free, said = tiny_unconditional(tmp_path / "free"), []
    session = session_of(free, photos, tmp_path / "index", SMALL)
    (answer,) = why(session, photos / "train-00000.png", said.append, prompt="a star")
    assert (answer.query.kind, answer.method) == ("image", "ekfac") and answer.scores.std() > 0
    assert said == [
        f"'star' is left out: {free} reads no prompts, so it cannot be asked for a concept"
    ]
    with pytest.raises(MethodError, match="reads no prompts, so it cannot be asked for a concept"):
        session.attribute(Contribution("a star", "star"))


def test_a_picture_without_a_prompt(session, photos):
    file = photos / "train-00000.png"
    (answer,) = why(session, file)
    assert answer.query == Image("", file) and np.isfinite(answer.scores).all()


def test_what_cannot_be_asked_is_said_and_left_out(session, monkeypatch):
    ask, said = Session.attribute, []

    def refuse(self, question, **options):
        if question.title == "fish":
            raise QueryError("it has no gradient")
        return ask(self, question, **options)

    monkeypatch.setattr(Session, "attribute", refuse)
    answers = why(session, "a star, a fish", said.append, guidance=2.0)
    assert [answer.query.title for answer in answers] == ["the picture", "star"]
    assert "'fish' is left out: it has no gradient" in said
    with pytest.raises(QueryError, match="give a picture"):
        why(session, "")
