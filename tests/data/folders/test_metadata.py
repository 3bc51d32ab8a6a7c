"""Captions of image folders: every place where `datasets` and other trainers keep them."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import captions_of, loaded, write_pictures

from headwater.data.sources import load_dataset
from headwater.errors import DatasetError

TEXTS = {"a.png": "a cat", "b.png": "a dog, Zoë\nin two lines", "sub/c.png": 'two "birds"'}
ROWS = [{"file_name": name, "text": text, "width": 8} for name, text in TEXTS.items()]


def as_jsonl(folder: Path, rows=ROWS):
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def as_csv(folder: Path, rows=ROWS):
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def as_parquet(folder: Path, rows=ROWS):
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")


def as_kohya(folder: Path):
    images = {
        "a": {"caption": "a cat"},
        str(folder / "b.png"): {"tags": "a dog, Zoë\nin two lines", "train_resolution": [8, 8]},
        "/elsewhere/sub/sub/c.png": {"caption": 'two "birds"'},
    }
    (folder / "sub" / "meta_cap.json").write_text(json.dumps({"c": {"caption": 'two "birds"'}}))
    del images["/elsewhere/sub/sub/c.png"]
    (folder / "meta_cap.json").write_text(json.dumps(images))


@pytest.mark.parametrize("write", [as_jsonl, as_csv, as_parquet, as_kohya])
def test_every_metadata_file_is_read(tmp_path, write):
    write_pictures(tmp_path, *TEXTS)
    write(tmp_path)
    data, said = loaded(tmp_path)
    assert captions_of(data) == TEXTS and not said
    if write is not as_kohya:
        again = load_dataset(tmp_path, caption_column="text")
        assert again.fingerprint == data.fingerprint


def test_a_line_for_each_file_of_images(tmp_path):
    """As the AbC benchmark lays out its pool; only a line feed ends a line there."""
    write_pictures(tmp_path, "images/b.png", "images/a10.png", "images/a9.jpg")
    lines = ["a cat\u2028 on a mat ", "", "a dog"]
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    data, said = loaded(tmp_path)
    assert [sample.id for sample in data.samples] == [
        "images/a10.png",
        "images/a9.jpg",
        "images/b.png",
    ]
    assert [sample.caption for sample in data.samples] == ["a cat\u2028 on a mat", "", "a dog"]
    assert not said


@pytest.mark.parametrize("images", ["images", "pictures"])
def test_lines_that_belong_to_no_images_are_not_read(tmp_path, images):
    write_pictures(tmp_path, f"{images}/a.png", f"{images}/b.png")
    (tmp_path / "captions.txt").write_text("image,caption\na.png,a cat\nb.png,a dog\n")
    data, said = loaded(tmp_path)
    assert [sample.caption for sample in data.samples] == ["", ""]
    beside = "2 files in images/" if images == "images" else "no images/"
    assert f"captions.txt is not read: it has 3 line(s), and beside it is {beside}" in str(said)


@pytest.mark.parametrize("key", ["text", "caption", "prompt", "description", "captions"])
def test_usual_keys_are_read(tmp_path, key):
    write_pictures(tmp_path, "a.png")
    as_jsonl(tmp_path, [{"file_name": "a.png", key: "a cat"}])
    assert captions_of(load_dataset(tmp_path)) == {"a.png": "a cat"}


def test_kohya_joins_captions_and_tags(tmp_path):
    write_pictures(tmp_path, "a.png", "b.png")
    images = {"a": {"caption": "a cat", "tags": "fur, paws"}, "b": {"caption": "a dog", "tags": ""}}
    (tmp_path / "meta_clean.json").write_text(json.dumps(images))
    assert captions_of(load_dataset(tmp_path)) == {"a.png": "a cat,fur, paws", "b.png": "a dog"}
    with_tags, said = loaded(tmp_path, caption_column="tags")
    assert captions_of(with_tags) == {"a.png": "fur, paws", "b.png": ""} and not said


def test_an_image_that_kohya_cannot_find_is_refused(tmp_path):
    write_pictures(tmp_path, "a.png")
    (tmp_path / "meta_cap.json").write_text(json.dumps({"zebra": {"caption": "a zebra"}}))
    with pytest.raises(DatasetError, match=r"meta_cap.json 'zebra': there is no image 'zebra'"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_files_beside_images(tmp_path, suffix):
    write_pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / f"a{suffix}").write_text("\ufeffa cat\r\n", encoding="utf-8")
    (tmp_path / f"b{suffix}").write_text("a dog\n\n  a small dog\r\n", encoding="utf-8")
    (tmp_path / f"c{suffix}").touch()
    data, said = loaded(tmp_path)
    assert captions_of(data) == {"a.png": "a cat", "b.png": "a dog", "c.png": ""}
    assert data.samples[1].captions == ("a dog", "a small dog")
    assert said == [
        f"1 caption file(s) have several lines, such as 'b{suffix}'; each line is one caption",
    ]


def test_txt_comes_before_caption_and_that_is_said(tmp_path):
    write_pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    (tmp_path / "a.caption").write_text("a dog")
    data, said = loaded(tmp_path)
    assert captions_of(data) == {"a.png": "a cat"}
    assert len(said) == 1 and "1 caption file(s) are not read, such as 'a.caption'" in said[0]


def test_several_captions_of_an_image_are_all_kept(tmp_path):
    write_pictures(tmp_path, "a.png", "b.png")
    rows = [
        {"file_name": "a.png", "text": ["a cat", "an animal", "a cat"]},
        {"file_name": "b.png", "text": "a dog"},
        {"file_name": "b.png", "text": "a hound"},
    ]
    as_jsonl(tmp_path, rows)
    data, said = loaded(tmp_path)
    assert [sample.captions for sample in data.samples] == [
        ("a cat", "an animal"),
        ("a dog", "a hound"),
    ]
    assert captions_of(data) == {"a.png": "a cat", "b.png": "a dog"}
    assert said == []


def test_captions_that_are_no_text_are_counted(tmp_path):
    names = [f"{i}.png" for i in range(6)]
    write_pictures(tmp_path, *names)
    values = ["a cat", 7, None, {"raw": "a dog"}, ["a bird", None], True]
    as_jsonl(
        tmp_path, [{"file_name": n, "text": v} for n, v in zip(names, values, strict=True)]
    )  # fmt: skip
    data, said = loaded(tmp_path)
    assert list(captions_of(data).values()) == ["a cat", "", "", "", "a bird", ""]
    assert said == [
        f"5 caption(s) are no text and could not be used, such as 7 ({tmp_path}/metadata.jsonl "
        "line 2); write text, or name another key as --caption-column"
    ]


def test_two_metadata_files_that_differ_are_said(tmp_path):
    write_pictures(tmp_path, "a.png", "b.png")
    as_jsonl(tmp_path, [{"file_name": n, "text": "a cat"} for n in ("a.png", "b.png")])
    as_csv(tmp_path, [{"file_name": "a.png", "text": "a cat"}, {"file_name": "b.png", "text": "x"}])
    data, said = loaded(tmp_path)
    assert captions_of(data) == {"a.png": "a cat", "b.png": "a cat"}
    assert len(said) == 1 and said[0].startswith("1 caption(s) differ")
    assert "'b.png' (metadata.csv)" in said[0]


def test_metadata_of_another_split_is_no_fault(tmp_path):
    write_pictures(tmp_path, "train/a.png", "test/b.png")
    rows = [{"file_name": n, "text": n} for n in ("train/a.png", "test/b.png")]
    as_jsonl(tmp_path, rows)
    data, said = loaded(tmp_path)
    assert captions_of(data) == {"train/a.png": "train/a.png"} and len(said) == 1


WRONG = {
    "half a pair": (
        '{"file_name": "a.png", "text": "party \\ud83c"}',
        "line 1.*half a char",
    ),
    "half in a list": ('{"file_name": "a.png", "text": ["a", "\\udf89"]}', "line 1.*half a char"),
    "no name": ('{"file_name": "", "text": "a"}', r"line 1: there is no image '\.'"),
    "a number": ('{"file_name": 3, "text": "a"}', "line 1: write a JSON object"),
}


@pytest.mark.parametrize("line, words", WRONG.values(), ids=WRONG)
def test_a_line_that_is_wrong_is_named(tmp_path, line, words):
    write_pictures(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(DatasetError, match=f"metadata.jsonl {words}"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("metadata.csv", b"name,text\na.png,a cat\n", r"metadata.csv line 2.*column `file_name`"),
        ("metadata.csv", b"file_name,text\nz.png,a\n", r"metadata.csv line 2: there is no image"),
        ("metadata.csv", b"file_name,text\na.png,\xff\n", r"metadata.csv.*UTF-8"),
        ("metadata.parquet", b"PAR1", r"cannot read .*metadata.parquet"),
        ("meta_cap.json", b"[1]", r"cannot read .*meta_cap.json"),
        ("meta_cap.json", b'{"a": "a cat"}', r"cannot read .*meta_cap.json"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, name, content, words):
    write_pictures(tmp_path, "a.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        load_dataset(tmp_path)
