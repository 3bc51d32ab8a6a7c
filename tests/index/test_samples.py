"""`samples.parquet`: what is written comes back, and older tables without a column are read."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import loaded, write_pictures

from headwater import Denoiser, build_index
from headwater.cli.info import info
from headwater.data.training_set import make_sample
from headwater.errors import StoreError
from headwater.index import samples as samples_file
from headwater.index.index import Index
from headwater.index.samples import (
    StoredSamples,
    count_repeats,
    read_samples,
    rows_by_id,
    write_samples,
)
from headwater.storage.files import sha256_of, write_table
from headwater.storage.manifest import Manifest, Shard

SMALL = {"method": "trak", "timesteps": 1, "dim": 16}


def test_repeats_are_kept_and_shown(tmp_path, tiny_model, capsys):
    write_pictures(tmp_path / "data", "10_a star/a.png", "10_a star/b.png", "1_star/c.png")
    data, _ = loaded(tmp_path / "data")
    out = tmp_path / "index"
    build_index(Denoiser.load(tiny_model), data, out, **SMALL)
    assert list(Index.open(out).samples) == list(data.samples)
    assert count_repeats(out) == {1: 1, 10: 2}
    info(out, as_json=True)
    assert json.loads(capsys.readouterr().out)["repeats"] == "1 images once, 2 images 10 times"


def test_columns_that_say_nothing_are_left_out(tmp_path):
    samples = [make_sample(id, ["a cat"], id) for id in "ab"]
    write_samples(tmp_path, samples, [0, 1])
    assert pq.read_schema(tmp_path / "samples.parquet").names == ["row", "id", "caption", "uri"]
    assert count_repeats(tmp_path) == {}


def test_a_table_that_is_damaged_has_no_repeats(tmp_path):
    assert count_repeats(tmp_path) == {}
    (tmp_path / "samples.parquet").write_bytes(b"PAR1")
    assert count_repeats(tmp_path) == {}


def stored(folder, count, inside=None, **kind):
    """Samples by a file of several row groups, and what was written."""
    captions = kind.get("captions", ["a cat"])
    names = [(f"{row}.png", 1 + row % 2) for row in range(count)]
    samples = [make_sample(name, captions, f"at/{name}", times) for name, times in names]
    write_samples(folder, samples, range(count))
    return StoredSamples(folder / "samples.parquet", inside), samples


@pytest.mark.parametrize("captions", [["a cat"], ["a cat", "a dog"], []])
def test_rows_are_read_when_they_are_asked_for(tmp_path, monkeypatch, captions):
    monkeypatch.setattr(samples_file, "AT_A_TIME", 3)
    there, written = stored(tmp_path, 20, captions=captions)
    assert len(there._masks) == 7
    assert list(there) == written and len(there) == 20
    assert [there[row] for row in (19, 0, 7, -1)] == [written[row] for row in (19, 0, 7, -1)]
    assert there[2:11:4] == written[2:11:4]
    assert there[np.int64(5)] == written[5]
    assert len(there._kept) <= 4
    with pytest.raises(IndexError):
        there[20]


def test_some_rows_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(samples_file, "AT_A_TIME", 3)
    inside = np.ones(20, bool)
    inside[[0, 3, 4, 5, 19]] = False  # a whole group among them
    there, written = stored(tmp_path, 20, inside)
    left = [sample for sample, yes in zip(written, inside, strict=True) if yes]
    assert list(there) == left and there[2] == left[2] and there[-1] == left[-1]
    assert rows_by_id(there, {"1.png", "18.png", "19.png"}) == {"1.png": 0, "18.png": 14}


def test_what_is_open_stays_what_it_was(tmp_path):
    there, written = stored(tmp_path, 5)
    stored(tmp_path, 3)
    assert list(there) == written


def test_what_is_damaged_after_it_was_opened_is_said_in_one_line(tmp_path):
    there, _ = stored(tmp_path, 2000)
    path = tmp_path / "samples.parquet"
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="headwater repair"):
        list(there)


def test_positions_are_a_range_where_no_image_is_missing(tmp_path, tiny_model):
    write_pictures(tmp_path / "data", *(f"10_star/{id}.png" for id in "abcd"))
    data, _ = loaded(tmp_path / "data")
    index = build_index(Denoiser.load(tiny_model), data, tmp_path / "index", **SMALL)
    assert index.positions == range(4)
    less = Index.open(index.path, removed=frozenset({1}))
    assert list(less.positions) == [0, 2, 3]
    assert [sample.id for sample in less.samples] == [f"10_star/{id}.png" for id in "acd"]


# --- a table of a stranger, whose checksum is right -----------------------------------------------

# Two shards of two rows, the first without its second image.
SHARDS = (
    Shard("features/00000.safetensors", 0, 2, ("skipped",), 99, "xxh3:"),
    Shard("features/00001.safetensors", 3, 2, (), 99, "xxh3:"),
)
TEXT = ["a", "b", "c", "d"]
TABLE = {"row": [0, 2, 3, 4], "id": TEXT, "caption": TEXT, "uri": TEXT}
NO_TEXT = pa.array([b"a", b"\xff", b"c", b"d"], pa.binary()).view(pa.string())
TABLES = {
    "rows of other shards": ({"row": [0, 3, 4, 5]}, "are not those of the shards"),
    "rows before their shard": ({"row": [0, 1, 2, 4]}, "are not those of the shards"),
    "a row twice": ({"row": [0, 0, 3, 4]}, "are not those of the shards"),
    "rows of float": ({"row": [0.0, 2.0, 3.0, 4.0]}, "its column row is of double"),
    "a row that is missing": ({"row": [0, None, 3, 4]}, "a number is missing"),
    "ids of numbers": ({"id": [1, 2, 3, 4]}, "its column id is of int64"),
    "captions of bytes": ({"caption": [b"a"] * 4}, "its column caption is of binary"),
    "captions in a list of numbers": ({"captions": [[1]] * 4}, "captions is of list"),
    "repeats of text": ({"repeats": TEXT}, "its column repeats is of string"),
    "an id that is missing": ({"id": ["a", None, "c", "d"]}, "a value is missing"),
    "one of several captions": ({"captions": [["a", None]] * 4}, "a value is missing"),
    "seen less than once": ({"repeats": [1, 1, 0, 1]}, "less than once"),
    "no UTF-8": ({"caption": NO_TEXT}, "cannot be read"),
}


def read_table(folder, table):
    write_table(folder / "samples.parquet", pa.table(table))
    digest = sha256_of(folder / "samples.parquet")
    manifest = Manifest({}, {}, {"rows": 5}, {}, 3, samples_sha256=digest, shards=SHARDS)
    return list(read_samples(folder, manifest, frozenset()).samples)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_other_rows_or_types_is_refused(tmp_path, name):
    assert [sample.id for sample in read_table(tmp_path, TABLE)] == TEXT
    change, said = TABLES[name]
    with pytest.raises(
        StoreError, match=rf"samples\.parquet .*{said}.*`headwater repair"
    ) as caught:
        read_table(tmp_path, {**TABLE, **change})
    assert "\n" not in str(caught.value)
