"""The report of an audit: what it shows of findings, and that nothing breaks it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from headwater.data.training_set import Sample
from headwater.errors import StoreError
from headwater.quick.audit import Audit, Audited, Finding
from headwater.report.audit import write_audit


class Pictures:
    """Stands for an index of three images, of which one cannot be opened."""

    path = Path("my-index")

    def __len__(self):
        return 3

    def image(self, row):
        return None if row == 2 else Image.new("RGB", (8, 8))


def finding(row, says, sees, strength):
    return Finding(
        row, Sample(f"image-{row}", "a <b>red</b> star", f"{row}.png"), says, sees, strength
    )


AUDIT = Audit(
    (
        Audited(
            ("red", "blue"),
            ("shape",),
            7,
            (finding(0, "red", "blue", 0.5), finding(1, "red", "blue", 2.0)),
            (finding(2, "", "blue", 0.75), finding(0, "", "blue", 3.0)),
        ),
        Audited(("star", "moon"), (), 4, (finding(0, "star", "moon", 1.0),), ()),
    ),
    ("'shape' is seldom seen",),
    {"seed": 0},
)


def test_findings_of_all_kinds_are_ranked_together(tmp_path):
    """Of a doubted image one, and nothing of what its caption leaves out."""
    written = write_audit(Pictures(), AUDIT, tmp_path, top=2)
    assert [(each["id"], each["sees"]) for each in written["wrong"]] == [
        ("image-1", "blue"),
        ("image-0", "moon"),
    ]
    assert written["counts"] == {"wrong": 2, "unsaid": 1}  # of image-0 the stronger
    page = (tmp_path / "report.html").read_text()
    assert "a &lt;b&gt;red&lt;/b&gt; star" in page and "<b>red" not in page
    assert "image not found" in page and "seldom seen: shape" in page
    assert "shape&#39; is seldom seen." in page
    table = pq.read_table(tmp_path / "findings.parquet").to_pylist()
    assert [(row["finding"], row["strength"]) for row in table] == [
        ("wrong", 2.0),
        ("wrong", 1.0),
        ("unsaid", 0.75),
    ]


def test_an_audit_of_nothing_is_a_page_too(tmp_path):
    nothing = Audit((Audited(("red", "blue"), (), 0, (), ()),), (), {})
    assert write_audit(Pictures(), nothing, tmp_path)["wrong"] == []
    page = (tmp_path / "report.html").read_text()
    assert page.count("There are none.") == 2 and "The surest" not in page
    assert pq.read_table(tmp_path / "findings.parquet").num_rows == 0


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        write_audit(Pictures(), AUDIT, tmp_path / "file")
