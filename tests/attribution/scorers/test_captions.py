"""A concept asked by the images whose caption names it: its closed form, and what it refuses."""

import numpy as np
import pytest
import torch

from headwater import Concept, Denoiser, Session, build_index, load_dataset
from headwater.attribution.scorers.captions import naming
from headwater.data.training_set import make_sample
from headwater.errors import MethodError, QueryError
from headwater.report.export import write_answers

METHOD, PROMPT = "caption-d-trak", "a yellow house"
OPTIONS = dict(timesteps=1, parameters="attn2-kv", dim=32, method="d-trak")


@pytest.fixture(scope="module")
def session(index):
    return Session(index)


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model, tiny_images):
    """Of 20 images, in shards."""
    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images)
    return build_index(denoiser, data, tmp_path_factory.mktemp("captioned") / "index", **OPTIONS)


def named(index, word):
    return np.array([word in sample.caption.split() for sample in index.samples])


@pytest.mark.parametrize("ratio", [0.01, 1.0])
def test_scores_are_a_kernel_ridge_regression_of_what_captions_say(index, ratio):
    """Not in how it is computed: the regression is in rows, the rule here in features."""
    answer = index.attribute(Concept(PROMPT, "yellow"), method=METHOD, damping=ratio)
    phi = torch.cat(list(index.blocks())).double().numpy()
    gram, says = phi @ phi.T, named(index, "yellow")
    target = np.where(says, 1 / says.sum(), -1 / (~says).sum())
    eigenvalues = np.linalg.eigvalsh(gram / len(phi))
    alpha = len(phi) * ratio * eigenvalues.sum() / min(phi.shape)
    fitted = gram @ np.linalg.solve(gram + alpha * np.eye(len(phi)), target)
    np.testing.assert_allclose(answer.scores, len(phi) * fitted, rtol=2e-3, atol=1e-3)


def test_it_says_how_it_was_asked(index):
    answer = index.attribute(Concept(PROMPT, "yellow"), method=METHOD)
    count = int(named(index, "yellow").sum())
    assert answer.asked == f"by {count} images whose caption names it, against the rest"
    assert answer.provenance["query"]["captions that name it"] == count
    assert answer.certainty is None and answer.unsure == "captions are all asked at once"


def test_nothing_is_asked_of_the_model(session, monkeypatch):
    def forward(*_, **__):
        raise AssertionError("the network was run")

    monkeypatch.setattr(type(session.denoiser.network), "forward", forward)
    assert np.isfinite(session.attribute(Concept(PROMPT, "yellow"), method=METHOD).scores).all()


@pytest.mark.parametrize(
    "query, error, says",
    [
        (Concept("a red square", "square"), QueryError, "no training caption names 'square', so"),
        (Concept(PROMPT, "yellow", minus="a house"), MethodError, "compares no prompts: leave out"),
        (Concept(PROMPT, "yellow", base="a"), MethodError, "compares no prompts: leave out"),
        (Concept(PROMPT, "yellow", swap=True), MethodError, "compares no prompts: leave out"),
        (Concept(PROMPT, "yellow", context="bare"), MethodError, "compares no prompts: leave out"),
    ],
)
def test_what_captions_cannot_be_asked(index, query, error, says):
    with pytest.raises(error, match=says):
        index.attribute(query, method=METHOD)


def test_where_every_caption_names_it_there_is_nothing_to_set_against():
    with pytest.raises(QueryError, match="every training caption names 'house', so caption-d-trak"):
        naming(captioned("a house", "a house"), Concept("a house", "house"), METHOD)


def test_where_captions_hold_another_form_it_is_named():
    with pytest.raises(QueryError, match=r"no training caption names 'house' \('houses' is in 2\)"):
        naming(captioned("two houses", "houses", "a star"), Concept("a house", "house"), METHOD)


def captioned(*captions):
    return [make_sample(str(i), [text], "") for i, text in enumerate(captions)]


def test_an_image_names_what_one_of_its_captions_does():
    samples = [*captioned("a house", "a star"), make_sample("2", ["a star", "a big house"], "")]
    assert naming(samples, Concept("a house", "house"), METHOD).tolist() == [True, False, True]


def test_a_report_says_that_captions_asked(session, tmp_path):
    attribution = session.attribute(Concept(PROMPT, "yellow"), method=METHOD)
    written = write_answers(session, [attribution], tmp_path)
    assert written["results"][0]["context"].startswith("by ")
    report = (tmp_path / "report.html").read_text()
    assert "Most in common" in report and "a regression of what captions say" in report
    assert "Proponents" not in report and "pushes the model" not in report
