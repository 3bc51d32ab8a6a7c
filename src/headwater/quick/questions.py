"""What there is to ask of a picture or a prompt: the whole, and each thing that is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headwater.attribution.answer.result import Attribution
from headwater.attribution.session import Session
from headwater.data.decode import SUFFIXES
from headwater.errors import MethodError, QueryError
from headwater.methods.choice import usual_ask
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.queries.outputs.output import question_of
from headwater.queries.query import Question
from headwater.queries.words.content import content_words

# As many words of a prompt are asked about.
MOST_CONCEPTS = 8


def questions(
    asked: str | Path,
    prompt: str = "",
    concepts: Sequence[str] | None = None,
    seed: int = 0,
    guidance: float = 5.0,
) -> list[Question]:
    """The whole picture, and each thing that its prompt names.

    Args:
        asked: a prompt, or a picture file.
        prompt: of the file, where it is known.
        concepts: words of the prompt; None takes all that name something, `MOST_CONCEPTS` at most.
        seed: of the picture that the prompt makes.
        guidance: classifier-free, of the same.

    Raises:
        QueryError: words that are not in the prompt; or a file, and there is none.

    >>> [question.title for question in questions("a red star")]
    ['the picture', 'red', 'star']
    """
    file = _picture_file(str(asked))
    if file is None and prompt:
        raise QueryError("--prompt says what a picture file is of: leave it out, or give a file")
    text = prompt if file else str(asked)
    found = content_words(text)[:MOST_CONCEPTS] if concepts is None else concepts
    whole = Image(text, file, seed=seed, guidance=guidance)
    return [whole, *(Concept(text, words, seed=seed) for words in found)]


def why(
    session: Session,
    asked: str | Path,
    note: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[Attribution]:
    """What taught the model the whole picture, and each thing that its prompt names.

    What cannot be asked is said and left out, unless it is the picture.

    Args:
        session: of `session_of`, or any whose index serves images and concepts.
        asked: a prompt, or a picture file.
        note: called with a line of text on what is done.
        options: of `questions`.

    Raises:
        QueryError: see `questions`.
        QueryError, MethodError: the picture cannot be asked about.

    Example:
        session = session_of("scenes", "scenes")
        whole, star = why(session, "a red star in hatched style", concepts=["star"])
    """
    return answers_of(session, questions(asked, **options), note)


def answers_of(
    session: Session, asked: Sequence[Question], note: Callable[[str], None]
) -> list[Attribution]:
    """The answers to `questions`, without those that cannot be asked.

    Words are asked for as the index's method takes them: as an output, if it is one of influence.

    Raises:
        QueryError, MethodError: the picture, which is the first, cannot be asked about.
    """
    whole, *others = asked
    answers = [session.attribute(whole, note=note)]
    index = session.index
    ask = usual_ask(None, index.recipe.method, index.methods())
    for question in others:
        if isinstance(question, Concept):
            question = question_of(ask, question.prompt, question.concept, seed=question.seed)
        try:
            answers.append(session.attribute(question, note=note))
        except (QueryError, MethodError) as error:
            note(f"{question.title!r} is left out: {error}")
    return answers


def _picture_file(asked: str) -> Path | None:
    """The file that is asked about, or None for a prompt.

    Raises:
        QueryError: it is named like a picture's file, and there is none.
    """
    path = Path(asked)
    if len(asked) < 256 and path.is_file():  # a longer name would be an error of the system
        return path
    if path.suffix.lower() in SUFFIXES and " " not in asked:
        raise QueryError(f"there is no picture {asked!r}: check the path, or give a prompt")
    return None
