"""The demo asks two questions of an index that it makes; here of a tiny model and its pictures."""

import json

import pytest
from support.command_line import headwater

from headwater import Denoiser, Index
from headwater.cli import main
from headwater.cli.main import DEMO_CONCEPTS, DEMO_PROMPT
from headwater.data import sources


@pytest.fixture
def data(tiny_model, tiny_images, monkeypatch):
    """The scenes, which are a tiny model and its pictures."""
    model, data = Denoiser.load(tiny_model), sources.load_dataset(tiny_images)
    monkeypatch.setattr(Denoiser, "load", lambda source: {"scenes": model}[source])
    monkeypatch.setattr(sources, "load_dataset", lambda source: {"scenes": data}[source])
    return data


def test_the_demo(data, tmp_path):
    result = headwater("demo", "--out", tmp_path)
    assert result.code == 0, result.err
    index = Index.open(tmp_path / "scenes-index")
    assert len(index) == len(data) and index.recipe.method == "ekfac-presence"
    answers = tmp_path / "answers"
    assert result.out.splitlines()[-1] == f"Report: {answers / 'report.html'}"
    for concept in DEMO_CONCEPTS:
        answer = json.loads((answers / concept / "result.json").read_text())
        assert answer["concept"] == concept and answer["method"] == "ekfac-presence"
        assert answer["query"]["output"] == "contribution" and answer["prompt"] == DEMO_PROMPT
        assert len(answer["top"]) == 10
        assert f"“{concept}”" in (answers / "report.html").read_text()


def test_the_demo_is_looked_at(data, tmp_path, monkeypatch):
    """The page opens on its index, once the answers are written; here nothing is served."""
    opened = []

    def show_page(indexes):
        opened.extend(indexes)
        assert len(Index.open(indexes[0])) == len(data)
        assert (tmp_path / "answers" / "report.html").is_file()

    monkeypatch.setattr(main, "show_page", show_page)
    monkeypatch.setattr(main, "DEMO_CONCEPTS", DEMO_CONCEPTS[:1])
    result = headwater("demo", "--view", "--out", tmp_path)
    assert result.code == 0, result.err
    assert opened == [tmp_path / "scenes-index"]
