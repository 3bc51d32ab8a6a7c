"""Rows of text tables are the same whatever the table is written as."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.data.tables.rows import SUFFIXES, rows_of
from headwater.errors import DatasetError

ROWS = [{"file": "a.png", "text": "two\nlines, Zoë"}, {"file": "b.png", "text": 'a "b"'}]


def written(folder, suffix):
    file = folder / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    elif suffix in (".csv", ".tsv"):
        with file.open("w", newline="", encoding="utf-8-sig") as text:
            writer = csv.DictWriter(
                text, ["file", "text"], delimiter="\t" if "t" in suffix else ","
            )
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        file.write_text(json.dumps(ROWS) if suffix == ".json" else as_lines(), encoding="utf-8-sig")
    return file


def as_lines():
    return "\n\n".join(map(json.dumps, ROWS)) + "\r\n"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_table_gives_its_rows(tmp_path, suffix):
    rows = list(rows_of(written(tmp_path, suffix)))
    assert [dict(row.values) for row in rows] == ROWS
    assert rows[1].where.startswith(f"{tmp_path}/a{suffix} ")


def test_json_lines_may_be_called_json(tmp_path):
    (tmp_path / "a.json").write_text(as_lines())
    rows = list(rows_of(tmp_path / "a.json"))
    assert [row.values for row in rows] == ROWS and rows[1].where.endswith("a.json line 3")


def test_columns_that_nobody_wants_are_not_read(tmp_path):
    rows = rows_of(written(tmp_path, ".parquet"), ["file", "caption"])
    assert [row.values for row in rows] == [{"file": "a.png"}, {"file": "b.png"}]


WRONG = {
    "no json": ("a.jsonl", b'{"a": 1}\n{oops\n', "a.jsonl line 2: write a JSON object"),
    "no object": ("a.json", b"[[1]]", "a.json row 0: write a JSON object"),
    "half a list": ("a.json", b"[{}", "a.json line 1: write a JSON object"),
    "Latin-1": ("a.csv", b"file\n\xe9\n", "a.csv: .*save it as UTF-8"),
    "Latin-1 in JSON": ("a.json", b'["\xe9"]', "a.json: .*save it as UTF-8"),
    "no parquet": ("a.parquet", b"PAR1", "cannot read .*a.parquet"),
    "an endless cell": ("a.csv", b'file\n"' + b"x" * 200_000, "a.csv line .*field larger"),
}


@pytest.mark.parametrize("name, content, words", WRONG.values(), ids=WRONG)
def test_what_cannot_be_read_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        list(rows_of(tmp_path / name))
