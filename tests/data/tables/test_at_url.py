"""Large parquet files at a URL: the same data as on a disk, of which little is read."""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.object_store import bucket
from support.pictures import encoded, noise

from headwater.data.sources import load_dataset, load_pictures
from headwater.data.tables import at_url
from headwater.errors import DatasetError, HeadwaterWarning, StoreError

IMAGES = [encoded(noise(seed, 64)) for seed in range(24)]
CUT = r"cannot reach memory://things .*the line is cut"
CAPTIONS = [f"a picture of {row}" for row in range(24)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(at_url, "COPIED_UP_TO", 0)


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


@pytest.fixture
def tables(tmp_path):
    """A folder of two files, of four row groups each, and of another split."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for number, name in enumerate(("train-0", "train-1", "test-0")):
        rows = slice(8 * number, 8 * number + 8)
        ids = [f"{name}/{row}" for row in range(8)]
        table = pa.table({"id": ids, "image": IMAGES[rows], "caption": CAPTIONS[rows]})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=2)
    return folder


def put(files, folder, at="/things"):
    files.pipe({f"{at}/{file.name}": file.read_bytes() for file in folder.iterdir()})
    return f"memory:/{at}"


def assert_same(there, here):
    assert there.fingerprint == here.fingerprint
    assert [each.id for each in there.samples] == [each.id for each in here.samples]
    assert [each.caption for each in there.samples] == [each.caption for each in here.samples]
    for row in range(len(here)):
        assert there.image(row).tobytes() == here.image(row).tobytes()


def test_they_are_those_of_a_disk_and_nothing_is_copied(memory, tables, tmp_path):
    url = put(memory, tables)
    with pytest.warns(HeadwaterWarning, match="not of the split 'train'"):
        there, here = load_dataset(url), load_dataset(tables)
    assert there.source == url and len(there) == 16
    assert_same(there, here)
    assert_same(load_dataset(url, split="all"), load_dataset(tables, split="all"))
    assert [sample.uri for sample in there.samples[7:9]] == [
        "things/train-0.parquet#row=7",
        "things/train-1.parquet#row=0",
    ]
    shown = load_pictures(url, split="all")
    assert len(shown) == 24 and not any(sample.caption for sample in shown.samples)
    assert not (tmp_path / "cache").exists()


def test_one_file(memory, tables):
    url = put(memory, tables)
    there = load_dataset(f"{url}/train-1.parquet", trigger="sks")
    assert_same(there, load_dataset(tables / "train-1.parquet", trigger="sks"))
    assert there.samples[0].uri == "train-1.parquet#row=0"
    assert there.samples[0].caption.startswith("sks")


def test_an_object_store(tables):
    with bucket() as files:
        files.put(str(tables), "bucket/things", recursive=True)
        there = load_dataset("s3://bucket/things", split="all")
        assert_same(there, load_dataset(tables, split="all"))


def test_what_is_read_is_what_is_wanted(memory, tmp_path, monkeypatch):
    images, read = [encoded(noise(seed, 256)) for seed in range(8)], []
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=2)
    memory.pipe("/a.parquet", (tmp_path / "a.parquet").read_bytes())
    cat_file = type(memory).cat_file

    def counted(self, path, start=None, end=None, **options):
        content = cat_file(self, path, start, end, **options)
        read.append(len(content))
        return content

    monkeypatch.setattr(type(memory), "cat_file", counted)
    there = load_dataset("memory://a.parquet")
    # 64 KiB at the end of a file, where its footer is, and three pieces of 4 of each row group
    assert 0 < sum(read) <= (64 + 4 * 3 * 4) * 1024 + 8 < sum(map(len, images)) / 10
    read.clear()
    there.image(3)
    assert len(read) == 1
    assert sum(map(len, images[2:4])) <= read[0] < sum(map(len, images[2:4])) + 1000
    there.image(2)  # of the same row group
    assert len(read) == 1


def test_others_are_copied(memory, tables, tmp_path, monkeypatch):
    url, copies = put(memory, tables), tmp_path / "cache" / "remote"
    monkeypatch.setattr(at_url, "COPIED_UP_TO", 10**9)
    here = load_dataset(tables, split="all")
    assert_same(load_dataset(url, split="all"), here)
    (copy,) = copies.glob("things-*/")
    assert len(list(copy.glob("*.parquet"))) == 3
    monkeypatch.setattr(at_url, "COPIED_UP_TO", 0)
    memory.pipe("/more/metadata.jsonl", b'{"file_name": "a.png", "text": "x"}')
    memory.pipe("/more/a.png", IMAGES[0])
    memory.pipe("/more/a.parquet", (tables / "test-0.parquet").read_bytes())
    with pytest.warns(HeadwaterWarning):
        assert [sample.caption for sample in load_dataset("memory://more").samples] == ["x"]


def test_a_line_that_is_cut_makes_no_bad_image(memory, tables, monkeypatch):
    there = load_dataset(put(memory, tables), split="all")

    def cut(*_, **__):
        raise ConnectionError("the line is cut")

    monkeypatch.setattr(type(memory), "cat_file", cut)
    with pytest.raises(StoreError, match=CUT):
        there.image(0)


def test_where_nothing_is_reached(memory, tables, monkeypatch):
    with pytest.raises(StoreError, match="there is nothing at memory://none"):
        load_dataset("memory://none")
    url = put(memory, tables)

    def cut(*_, **__):
        raise ConnectionError("the line is cut")

    monkeypatch.setattr(type(memory), "cat_ranges", cut)
    with pytest.raises(StoreError, match=CUT):
        load_dataset(url, split="all")


@pytest.mark.parametrize(
    "columns, said",
    [
        (
            {"text": ["x"]},
            r"memory://odd.parquet has no column 'image' of images; .* text \(string",
        ),
        (
            {"image": [{"bytes": None, "path": "a.png"}]},
            "rows of 'image' name files beside the table, .* copy both to a disk",
        ),
    ],
)
def test_what_cannot_be_read_there_is_said(memory, tmp_path, columns, said):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    arrays = {
        name: pa.array(cells, kind) if name == "image" else cells for name, cells in columns.items()
    }
    pq.write_table(pa.table(arrays), tmp_path / "odd.parquet")
    memory.put(str(tmp_path / "odd.parquet"), "/odd.parquet")
    with pytest.raises(DatasetError, match=said):
        load_dataset("memory://odd.parquet")


def test_what_is_no_parquet_is_said(memory):
    memory.pipe("/broken/a.parquet", b"PAR1" * 9)
    with pytest.raises(DatasetError, match=r"cannot read a.parquet at memory://broken as parquet"):
        load_dataset("memory://broken")
