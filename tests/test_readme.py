"""The README's five lines run as they stand (on fewer pictures, to be quick)."""

import re
from pathlib import Path

import headwater

README = Path(__file__).parent.parent / "README.md"


def test_the_five_lines(tmp_path, monkeypatch):
    (lines,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    few = headwater.load_dataset("scenes").first(40)
    monkeypatch.setattr(headwater, "load_dataset", lambda source: few, raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(lines, names)
    top = names["attribution"].top(10)
    assert [entry.rank for entry in top] == list(range(1, 11))
    assert [entry.score for entry in top] == sorted((e.score for e in top), reverse=True)
    assert {entry.id for entry in top} <= {sample.id for sample in few.samples}
