"""Large parquet files at a URL: the same data as on a disk, of which little is read."""

import time
from threading import Condition, Lock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.object_store import bucket
from support.pictures import encoded, noise

from headwater.data import sources
from headwater.data.request import Request
from headwater.data.sources import load_dataset, load_pictures
from headwater.data.tables import at_url
from headwater.errors import BadImageError, DatasetError, HeadwaterWarning, StoreError

IMAGES = [encoded(noise(seed, 64)) for seed in range(24)]
CUT = r"cannot reach memory://things .*the line is cut"
CAPTIONS = [f"a picture of {row}" for row in range(24)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(at_url, "COPIED_UP_TO", 0)


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
    assert there.fingerprint == here.fingerprint and there.options == here.options
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
    assert_same(load_dataset(f"{url}/test-0.parquet"), load_dataset(tables / "test-0.parquet"))
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


def test_several_files_are_asked_at_once(memory, tables, monkeypatch):
    """Each answer waits for another file to be asked for: one after the other none would come."""
    url, cat_file = put(memory, tables), type(memory).cat_file
    asked, two = set(), Condition()

    def answered(self, path, start=None, end=None, **options):
        with two:
            asked.add(path)
            two.notify_all()
            assert two.wait_for(lambda: len(asked) == 2, timeout=60), "one waits for the other"
        return cat_file(self, path, start, end, **options)

    monkeypatch.setattr(type(memory), "cat_file", answered)
    with pytest.warns(HeadwaterWarning, match="not of the split 'train'"):
        there = load_dataset(url)
    assert [sample.caption for sample in there.samples] == CAPTIONS[:16]


def test_a_file_system_of_one_connection_is_asked_one_thing_at_a_time(memory, tables, monkeypatch):
    url, cat_file, connection = put(memory, tables), type(memory).cat_file, Lock()

    def answered(self, *given, **options):
        assert connection.acquire(blocking=False), "it is answering another one"
        time.sleep(0.01)  # any other would come now
        connection.release()
        return cat_file(self, *given, **options)

    monkeypatch.setattr(type(memory), "cat_file", answered)
    monkeypatch.setattr(type(memory), "protocol", "ftp")
    assert len(load_dataset(url, split="all")) == 24


def test_others_are_copied(memory, tables, tmp_path, monkeypatch):
    url, copies = put(memory, tables), tmp_path / "cache" / "remote"
    monkeypatch.setattr(at_url, "COPIED_UP_TO", 10**9)
    here = load_dataset(tables, split="all")
    assert_same(load_dataset(url, split="all"), here)
    (copy,) = copies.glob("things-*/")
    assert len(list(copy.glob("*.parquet"))) == 3


@pytest.mark.parametrize("beside", ["a.png", "a.TAR", "a.tar.gz", "state.json", "b/index.json"])
def test_a_folder_of_other_things_is_copied(memory, tables, monkeypatch, beside):
    url, copied = put(memory, tables), []
    memory.pipe(f"/things/{beside}", b"x")
    monkeypatch.setattr(sources, "here", lambda url: copied.append(url) or str(tables))
    load_dataset(url, split="all")
    assert copied == [url]


@pytest.mark.parametrize("beside", [".a.png", ".b/c.tar", "my_index.json", "README.md"])
def test_what_does_not_count_is_left_alone(memory, tables, tmp_path, beside):
    url = put(memory, tables)
    memory.pipe(f"/things/{beside}", b"x")
    assert_same(load_dataset(url, split="all"), load_dataset(tables, split="all"))
    assert not (tmp_path / "cache").exists()


def test_what_counts_is_all_of_them(memory, tables, tmp_path, monkeypatch):
    url = put(memory, tables)
    sizes = [file.stat().st_size for file in tables.iterdir()]
    monkeypatch.setattr(at_url, "COPIED_UP_TO", sum(sizes) - 1)
    load_dataset(url, split="all")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(at_url, "COPIED_UP_TO", sum(sizes))
    load_dataset(url, split="all")
    assert (tmp_path / "cache").exists()


def test_the_hub_has_its_own_way(monkeypatch):
    monkeypatch.setattr(at_url, "file_system", None)
    assert at_url.open_large_tables(Request("hf://datasets/someone/theirs")) is None


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


def test_a_table_of_names_is_for_a_disk(memory, tmp_path):
    pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / "odd.parquet")
    memory.put(str(tmp_path / "odd.parquet"), "/odd.parquet")
    with pytest.raises(DatasetError, match=r"memory://odd.parquet names its images, .* copy it"):
        load_dataset("memory://odd.parquet")


@pytest.mark.parametrize("statistics", [True, False])
def test_cells_that_may_name_a_file(memory, tmp_path, statistics):
    """With bytes they are as they are on a disk; without, a file is wanted that is not there."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        {"bytes": IMAGES[0], "path": "a.png"},
        {"bytes": None, "path": "b.png"},
        {"bytes": None, "path": None},
        None,
    ]
    table = pa.table({"image": pa.array(cells, kind)})
    pq.write_table(table, tmp_path / "odd.parquet", write_statistics=statistics)
    memory.pipe("/odd.parquet", (tmp_path / "odd.parquet").read_bytes())
    there, here = load_dataset("memory://odd.parquet"), load_dataset(tmp_path / "odd.parquet")
    assert there.fingerprint == here.fingerprint
    assert there.image(0).tobytes() == here.image(0).tobytes()
    with pytest.raises(DatasetError, match=r"an image is named, 'b.png', .*: copy both") as error:
        there.image(1)
    assert not isinstance(error.value, BadImageError)  # which --skip-bad would leave out
    for row in (2, 3):
        with pytest.raises(BadImageError):
            there.image(row)


@pytest.mark.parametrize("size", [0, 1], ids=["as large", "larger"])
def test_a_file_that_changes_meanwhile_is_refused(memory, tables, size):
    url = put(memory, tables)
    there = load_dataset(url, split="all")
    first, second = sorted(memory.find("/things"))[:2]
    time.sleep(0.01)  # its time is its stamp
    memory.pipe(first, memory.cat(second if size == 0 else first) + b"x" * size)
    row = next(r for r, sample in enumerate(there.samples) if first.endswith(name_of(sample)))
    with pytest.raises(StoreError, match=f"{first} at {url} has changed since it was opened"):
        there.image(row)


def name_of(sample) -> str:
    return sample.uri.partition("#")[0]


@pytest.mark.parametrize("more", [-1, 1])
@pytest.mark.parametrize("opened", [True, False])
def test_a_place_that_gives_other_bytes_than_asked_for(memory, tables, monkeypatch, more, opened):
    url = put(memory, tables)
    there = load_dataset(url, split="all") if opened else None
    cat_file = type(memory).cat_file

    def other(self, path, start=None, end=None, **options):
        content = cat_file(self, path, start, end, **options)
        return content[:more] if more < 0 else content + b"x" * more

    monkeypatch.setattr(type(memory), "cat_file", other)
    with pytest.raises(StoreError, match=r"things/.* gave \d+ of \d+ bytes: begin again"):
        there.image(0) if there else load_dataset(url, split="all")


def test_what_is_given_as_an_error_is_one(memory, tables, monkeypatch):
    """As fsspec does before 2025 where files are read side by side."""
    url = put(memory, tables)
    given = lambda self, paths, *_, **__: [ConnectionError("the line is cut")] * len(paths)  # noqa: E731
    monkeypatch.setattr(type(memory), "cat_ranges", given)
    with pytest.raises(StoreError, match=CUT):
        load_dataset(url, split="all")


def test_too_little_memory_is_said_as_such(memory, tables, monkeypatch):
    there = load_dataset(put(memory, tables), split="all")

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(type(memory), "cat_file", full)
    with pytest.raises(MemoryError):
        there.image(0)


def test_a_listing_that_fails_once_copies_nothing(memory, tables, tmp_path, monkeypatch):
    url, find = put(memory, tables), type(memory).find
    failed = []

    def once(self, *args, **options):
        if not failed:
            failed.append(True)
            raise TimeoutError("the line is cut")
        return find(self, *args, **options)

    monkeypatch.setattr(type(memory), "find", once)
    with pytest.raises(StoreError, match=CUT):
        load_dataset(url, split="all")
    assert not list(tmp_path.glob("cache/**/*.parquet"))


def test_an_older_copy_serves_where_nothing_is_reached(memory, tables, monkeypatch):
    url = put(memory, tables)
    monkeypatch.setattr(at_url, "COPIED_UP_TO", 10**9)
    copied = load_dataset(url, split="all")
    monkeypatch.setattr(at_url, "COPIED_UP_TO", 0)

    def cut(*_, **__):
        raise ConnectionError("the line is cut")

    monkeypatch.setattr(type(memory), "find", cut)
    with pytest.warns(HeadwaterWarning, match="using the copy of an earlier time"):
        assert load_dataset(url, split="all").fingerprint == copied.fingerprint


def test_what_is_no_parquet_is_said(memory):
    memory.pipe("/broken/a.parquet", b"PAR1" * 9)
    with pytest.raises(
        DatasetError, match=r"cannot read /broken/a.parquet at memory://broken as parquet"
    ):
        load_dataset("memory://broken")
