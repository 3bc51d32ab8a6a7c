"""What people pass in Python instead of the right thing: refused by a name of ours, in one line."""

import jaxtyping
import pytest

from headwater import Concept, Denoiser, Image, Session, build_index, load_dataset
from headwater.errors import DatasetError, ModelError, QueryError

STAR = Concept("a red star", "star", draws=2)


@pytest.fixture(autouse=True)
def _unchecked():
    """Types are checked during tests; whoever calls us has nothing of that."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model)


@pytest.fixture(scope="module")
def session(denoiser, tiny_images, tmp_path_factory):
    data, out = load_dataset(tiny_images), tmp_path_factory.mktemp("misuse") / "index"
    return Session(
        build_index(denoiser, data, out, method="concept-trak-unguided", timesteps=2, dim=64)
    )


def test_an_index_of_what_is_no_model_or_no_training_set(denoiser, tiny_images, tmp_path):
    data = load_dataset(tiny_images)
    with pytest.raises(ModelError, match=r"StableDiffusionPipeline is no Denoiser: give .*pipe"):
        build_index(denoiser.pipe, data, tmp_path / "index")
    with pytest.raises(DatasetError, match="a str is no TrainingSet: give load_dataset"):
        build_index(denoiser, str(tiny_images), tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a red star", None), "concept None is a NoneType: give text"),
        ((None, "star"), "prompt None is a NoneType: give text"),
        (("a red star", ["star"]), "concept .* is a list: give text"),
    ],
)
def test_a_concept_that_is_no_text(arguments, message):
    with pytest.raises(QueryError, match=message):
        Concept(*arguments)


@pytest.mark.parametrize("draws", ["8", 2.5])
def test_draws_that_are_no_whole_number(draws):
    for ask in (lambda: Concept("a red star", "star", draws=draws), lambda: Image(draws=draws)):
        with pytest.raises(QueryError, match=r"draws .* is a .*: give a whole number, or None"):
            ask()


@pytest.mark.parametrize("query", ["star", None, Concept])
def test_what_is_no_question(session, query):
    for ask in (session.attribute, session.attribute_steps, session.index.attribute):
        with pytest.raises(QueryError, match="no question: give a Concept, Image"):
            ask(query)


@pytest.mark.parametrize("damping", ["0.1", -1, ("0.1", 1.0)])
def test_a_damping_that_is_no_number(session, damping):
    with pytest.raises(QueryError, match=r"--damping .* must be a number from 0 up"):
        session.attribute(STAR, damping=damping)


def test_a_negative_count_of_images(session):
    answer = session.attribute(STAR)
    assert [len(answer.top(0)), len(answer.top(10**6))] == [0, 20]
    for ranked in (answer.top, answer.bottom):
        with pytest.raises(QueryError, match="-1 images cannot be ranked: give 0 or more"):
            ranked(-1)
