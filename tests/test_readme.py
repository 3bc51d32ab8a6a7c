"""The code of README and guide runs as it stands (on fewer pictures, to be quick)."""

import re
from pathlib import Path

import headwater

ROOT = Path(__file__).parent.parent


def ran(file, tmp_path, monkeypatch) -> dict:
    """The names that a document's Python leaves, of 40 scenes."""
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
    few = headwater.load_dataset("scenes").first(40)
    monkeypatch.setattr(headwater, "load_dataset", lambda source: few, raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(lines, names)
    return names


def test_the_five_lines(tmp_path, monkeypatch):
    top = ran("README.md", tmp_path, monkeypatch)["attribution"].top(10)
    assert [entry.rank for entry in top] == list(range(1, 11))
    assert [entry.score for entry in top] == sorted((e.score for e in top), reverse=True)
    ids = {sample.id for sample in headwater.load_dataset("scenes").samples}
    assert {entry.id for entry in top} <= ids


def test_the_questions_of_the_guide(tmp_path, monkeypatch):
    names = ran("docs/guide.md", tmp_path, monkeypatch)
    assert len(names["top"]) == 10 and (tmp_path / "answer/report.html").is_file()
    assert [question.kind for question in names["others"]] == ["image", "image", "local"]
