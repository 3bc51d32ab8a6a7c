"""Tables of paths: the images that they name, as an image folder would give them."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import captions_of, loaded, message, noise, same, write_pictures

from headwater.data.sizes import picture_sizes
from headwater.data.sources import load_dataset, load_pictures
from headwater.errors import BadImageError, DatasetError

TEXTS = {"b.png": "a dog", "deep/a.png": "a cat, Zoë"}
ROWS = [{"path": name, "caption": text} for name, text in TEXTS.items()]


def as_csv(folder, rows=ROWS, name="a.csv"):
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def as_json(folder, rows=ROWS):
    (folder / "a.json").write_text(json.dumps(rows))
    return folder / "a.json"


def as_jsonl(folder, rows=ROWS):
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "a.jsonl"


def as_parquet(folder, rows=ROWS):
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize("write", [as_csv, as_json, as_jsonl, as_parquet])
def test_the_images_of_every_kind_of_table(tmp_path, write):
    write_pictures(tmp_path, *TEXTS)
    data, said = loaded(write(tmp_path))
    assert captions_of(data) == TEXTS and not said
    assert same(data.image(0), noise(0)) and same(data.image(1), noise(1))
    assert list(data.contents) == [(tmp_path / name).stat().st_size for name in TEXTS]
    again = load_dataset(data.source, **data.options)  # as an index does
    assert again.fingerprint == data.fingerprint
    assert not any(sample.caption for sample in load_pictures(data.source).samples)


@pytest.mark.parametrize("column", ["file_name", "image_path", "path", "filename", "image"])
@pytest.mark.parametrize("write", [as_csv, as_parquet])
def test_columns_with_usual_names_are_found(tmp_path, write, column):
    write_pictures(tmp_path, "a.png")
    data = load_dataset(write(tmp_path, [{"sha": "x", column: "a.png", "prompt": "a cat"}]))
    assert captions_of(data) == {"a.png": "a cat"}


def test_columns_may_be_named(tmp_path):
    write_pictures(tmp_path, "a.png", "b.png")
    rows = [{"path": "b.png", "where": "./a.png", "caption": "a dog", "said": "a cat"}]
    options = {"image_column": "where", "caption_column": "said"}
    for write in (as_csv, as_parquet):
        data = load_dataset(write(tmp_path, rows), **options)
        assert captions_of(data) == {"a.png": "a cat"} and data.options == options


def test_bytes_come_before_paths(tmp_path):
    write_pictures(tmp_path, "a.png")
    row = {"path": "nowhere.png", "image": (tmp_path / "a.png").read_bytes()}
    data = load_dataset(as_parquet(tmp_path, [row]))
    assert data.samples[0].id == "row-00000000" and same(data.image(0), noise(0))


def test_a_folder_of_parquet_tables_of_paths(tmp_path):
    write_pictures(tmp_path / "pictures", *TEXTS)
    (tmp_path / "tables").mkdir()
    for number, row in enumerate(ROWS):
        path = f"../pictures/{row['path']}"
        pq.write_table(
            pa.Table.from_pylist([{**row, "path": path}]), tmp_path / f"tables/{number}.parquet"
        )
    data = load_dataset(tmp_path / "tables")
    assert captions_of(data) == {str(tmp_path / "pictures" / n): t for n, t in TEXTS.items()}


def test_absolute_paths_below_the_table_are_as_relative_ones(tmp_path):
    write_pictures(tmp_path / "here", "a.png")
    write_pictures(tmp_path / "there", "b.png")
    files = [tmp_path / "here" / "a.png", tmp_path / "there" / "b.png"]
    data = load_dataset(as_csv(tmp_path / "here", [{"path": str(file)} for file in files]))
    assert [sample.id for sample in data.samples] == ["a.png", str(files[1])]
    assert same(data.image(1), noise(0))


def test_ids_of_a_column(tmp_path):
    write_pictures(tmp_path, "a.png")
    rows = [{"id": 7, "path": "a.png", "text": "a"}, {"id": 8, "path": "a.png", "text": "b"}]
    data, said = loaded(as_jsonl(tmp_path, rows))
    assert captions_of(data) == {"7": "a", "8": "b"} and not said
    assert [sample.uri for sample in data.samples] == ["a.png"] * 2


def test_several_captions(tmp_path):
    write_pictures(tmp_path, "a.png", "b.png")
    rows = [
        {"path": "a.png", "texts": ["a cat", "an animal"]},
        {"path": "b.png", "texts": ["a dog"]},
        {"path": "./b.png", "texts": ["a hound"]},
    ]
    for write in (as_json, as_parquet):
        data, said = loaded(write(tmp_path, rows))
        assert [sample.captions for sample in data.samples] == [
            ("a cat", "an animal"),
            ("a dog", "a hound"),
        ]
        assert said == ["1 row(s) name an image once more; each adds its captions to it"]


def test_files_that_are_missing_are_damaged_images(tmp_path):
    write_pictures(tmp_path, "a.png")
    data, said = loaded(as_csv(tmp_path, [{"path": "a.png"}, {"path": "gone.png"}]))
    assert said == ["1 of 2 files that it names are not there, such as 'gone.png'"]
    with pytest.raises(BadImageError, match=r"'gone.png' \(gone.png\): .*No such file.*--skip-bad"):
        data.image(1)
    assert data.contents[1] == 0


def test_sizes_are_read_from_heads(tmp_path, monkeypatch):
    write_pictures(tmp_path / "set", *TEXTS)
    rows = [{"path": f"set/{name}"} for name in TEXTS]
    for source in (tmp_path / "set", as_csv(tmp_path, rows)):
        data = load_dataset(source)
        monkeypatch.setattr(type(data), "image", None)  # which would decode pictures
        assert picture_sizes(data) == {sample.id: (8, 8) for sample in data.samples}
        monkeypatch.undo()


def texts(*rows, **options):
    return lambda folder: (as_jsonl(folder, list(rows)), options)


REFUSED = {
    "an address": (
        texts({"image": "https://example.org/a.png"}),
        ["line 1", "'https://example.org/a.png' is on the web", "download", "img2dataset"],
    ),
    "no column": (
        texts({"url": "a.png", "n": 1}),
        ["no column of paths", "--image-column one of url, n"],
    ),
    "no such column": (
        texts({"path": "a.png"}, image_column="file"),
        ["no column 'file'", "path"],
    ),
    "no such captions": (
        texts({"path": "a.png"}, caption_column="said"),
        ["no column 'said'", "check"],
    ),
    "no path": (texts({"path": "a.png"}, {"path": 3}), ["line 2", "'path' is 3, no path"]),
    "an empty path": (texts({"path": " "}), ["line 1", "no path"]),
    "half a path": (texts({"path": "a\0.png"}), ["line 1", "no path"]),
    "none there": (texts({"path": "x.png"}), ["none of the 1 files", "'x.png'", "relative to"]),
    "no rows": (texts(), ["a.jsonl holds no images"]),
    "no id": (texts({"path": "a.png", "id": None}), ["line 1", "give every row one"]),
    "an id twice": (
        texts({"path": "a.png", "id": 1}, {"path": "a.png", "id": 1}),
        ["line 2", "'1'", "unique"],
    ),
    "a split": (texts({"path": "a.png"}, split="test"), ["no split 'test'"]),
}


@pytest.mark.parametrize("make, words", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(tmp_path, make, words):
    write_pictures(tmp_path, "a.png")
    path, options = make(tmp_path)
    with pytest.raises(DatasetError) as excinfo:
        load_dataset(path, **options)
    assert all(word in message(excinfo) for word in words), message(excinfo)


def test_addresses_in_parquet_are_refused_likewise(tmp_path):
    path = as_parquet(tmp_path, [{"url": "http://example.org/1.jpg", "text": "a"}])
    with pytest.raises(DatasetError, match="is on the web: download"):
        load_dataset(path, image_column="url")


def test_a_table_that_is_missing_is_no_name_of_the_hub():
    with pytest.raises(DatasetError, match=r"no file or folder 'nowhere.csv'"):
        load_dataset("nowhere.csv")
