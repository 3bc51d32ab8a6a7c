"""The demo asks two questions of an index that it makes; here of a tiny model and its pictures."""

import json

from support.command_line import headwater

from headwater import Denoiser, Index
from headwater.cli.main import DEMO_CONCEPTS, DEMO_PROMPT
from headwater.data import sources


def test_the_demo(tiny_model, tiny_images, tmp_path, monkeypatch):
    model, data = Denoiser.load(tiny_model), sources.load_dataset(tiny_images)
    monkeypatch.setattr(Denoiser, "load", lambda source: {"scenes": model}[source])
    monkeypatch.setattr(sources, "load_dataset", lambda source: {"scenes": data}[source])
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
