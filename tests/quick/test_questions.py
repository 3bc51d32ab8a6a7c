"""What there is to ask of a picture or a prompt."""

import numpy as np
import pytest
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Concept, Image, Session, session_of, why
from headwater.errors import QueryError
from headwater.quick.questions import MOST_CONCEPTS, questions

PROMPT = "a red star on a striped background"


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    model, data = tiny_pipeline(folder / "model"), tiny_folder(folder / "photos", 6)
    return session_of(model, data, None, {"timesteps": 2, "dim": 64})


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


def test_a_picture_without_a_prompt(session, tmp_path):
    file = next(iter((session.index.path.parent.parent / "photos").glob("*.png")))
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
