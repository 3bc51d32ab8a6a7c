"""Webdataset and zips: samples by stem, captions of every form, the same ids wherever they lie."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.archives import write_tar, write_zip
from support.pictures import captions_of, encoded, loaded, message, noise, same, write_pictures

from headwater.data.folders import archives
from headwater.data.sources import load_dataset, load_pictures
from headwater.errors import BadImageError, DatasetError

PICTURES = [encoded(noise(seed), kind) for seed, kind in enumerate(("PNG", "BMP", "PNG", "PNG"))]
SHARD = {
    "000.png": PICTURES[0],
    "000.txt": "a cat",
    "000.json": json.dumps({"caption": "not this one", "said": "meow"}),
    "001.bmp": PICTURES[1],
    "001.json": json.dumps({"caption": ["a dog", "a hound"], "said": "woof"}),
    "sub/002.png": PICTURES[2],
    "003.cls": "7",
    "003.png": PICTURES[3],
}
CAPTIONS = {"000": "a cat", "001": "a dog", "sub/002": "", "003": ""}


def folder_of(path, write=write_tar, suffix=".tar"):
    path.mkdir()
    names = list(SHARD)
    for number, own in enumerate((names[:5], names[5:])):
        write(path / f"0000{number}{suffix}", {name: SHARD[name] for name in own})
    return path


@pytest.mark.parametrize("write, suffix", [(write_tar, ".tar"), (write_zip, ".zip")])
def test_samples_of_one_archive(tmp_path, write, suffix):
    data, said = loaded(write(tmp_path / f"pets{suffix}", SHARD))
    assert captions_of(data) == {f"pets/{stem}": text for stem, text in CAPTIONS.items()}
    assert data.samples[1].captions == ("a dog", "a hound") and not said
    assert data.samples[2].uri == f"pets{suffix}#sub/002.png"
    for row in (3, 1, 0, 2):
        assert same(data.image(row), noise(row))
    assert list(data.contents) == [len(picture) for picture in PICTURES]
    again = load_dataset(data.source, **data.options)  # as an index does
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("write, suffix", [(write_tar, ".tar"), (write_zip, ".zip")])
def test_a_folder_of_shards(tmp_path, write, suffix):
    data, said = loaded(folder_of(tmp_path / "pets", write, suffix))
    ids = ["00000/000", "00000/001", "00001/sub/002", "00001/003"]
    assert [sample.id for sample in data.samples] == ids and not said
    assert data.samples[2].uri == f"pets/00001{suffix}#sub/002.png"
    assert all(same(data.image(row), noise(row)) for row in (3, 0, 2, 1))


def test_ids_and_fingerprint_do_not_depend_on_the_place(tmp_path):
    data = load_dataset(folder_of(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "c")
    assert load_dataset(tmp_path / "b" / "c").fingerprint == data.fingerprint
    one = load_dataset(tmp_path / "a" / "00000.tar")
    assert one.fingerprint == data.first(2).fingerprint
    write_tar(tmp_path / "a" / "00000.tar", SHARD | {"000.txt": "another cat"})
    assert load_dataset(tmp_path / "a" / "00000.tar").fingerprint != one.fingerprint


def test_no_image_is_read_for_the_listing(tmp_path, monkeypatch):
    folder_of(tmp_path / "a")
    read = []
    real = archives.read_member
    monkeypatch.setattr(archives, "read_member", lambda a, m: read.append(m.name) or real(a, m))
    data = load_dataset(tmp_path / "a")
    assert sorted(read) == ["000.json", "000.txt", "001.json", "003.cls"]
    read.clear()
    assert len(load_pictures(str(tmp_path / "a"))) == 4 and not read
    data.image(0)
    assert read == ["000.png"]


@pytest.mark.parametrize(
    "key, captions",
    [
        ("said", ["meow", "woof", "", ""]),
        ("json", ["not this one", "a dog", "", ""]),
        ("txt", ["a cat", "", "", ""]),
        ("cls", ["", "", "", "7"]),
    ],
)
def test_captions_may_be_named(tmp_path, key, captions):
    data = load_dataset(write_tar(tmp_path / "a.tar", SHARD), caption_column=key)
    assert [sample.caption for sample in data.samples] == captions


def test_classes_with_names_are_captions(tmp_path):
    files = {"0.png": PICTURES[0], "0.cls": "tabby cat\n"}
    assert captions_of(load_dataset(write_tar(tmp_path / "a.tar", files))) == {"a/0": "tabby cat"}


def test_numbers_of_classes_are_no_captions_and_that_is_said(tmp_path):
    data, said = loaded(write_tar(tmp_path / "a.tar", {"0.png": PICTURES[0], "0.cls": "3"}))
    assert not data.samples[0].caption
    assert len(said) == 1 and "(1 .cls) that are numbers" in said[0]
    assert "--caption-column cls" in said[0]


def test_a_text_is_one_caption_in_webdataset_and_a_line_each_in_a_zip(tmp_path):
    files = {"0.png": PICTURES[0], "0.txt": "\ufeffa cat\non a mat\n"}
    tar, zipped = (write(tmp_path / f"a.{write.__name__[-3:]}", files)
                   for write in (write_tar, write_zip))  # fmt: skip
    assert load_dataset(tar).samples[0].all_captions == ("a cat\non a mat",)
    assert load_dataset(zipped).samples[0].all_captions == ("a cat", "on a mat")


def test_further_images_of_a_sample_are_left_out_and_counted(tmp_path):
    files = {"0.png": PICTURES[0], "0.mask.png": PICTURES[1], "0.bmp": PICTURES[1],
             "b.1.png": PICTURES[2], "b.2.png": PICTURES[3]}  # fmt: skip
    data, said = loaded(write_tar(tmp_path / "a.tar", files))
    assert [sample.id for sample in data.samples] == ["a/0", "a/b.1", "a/b.2"]
    assert said == [
        "2 image(s) in it are left out, beside another of that name or with another suffix, such "
        "as '0.bmp'; --image-column names the suffix to take"
    ]
    data, said = loaded(tmp_path / "a.tar", image_column="bmp")
    assert [sample.id for sample in data.samples] == ["a/0"] and same(data.image(0), noise(1))
    assert len(said) == 1 and said[0].startswith("4 image(s)")


def test_other_files_are_counted(tmp_path):
    files = {"0.png": PICTURES[0], "0.npy": b"", "README": "", "x.txt": "lost", "y.npy": b""}
    _, said = loaded(write_tar(tmp_path / "a.tar", files))
    assert len(said) == 1
    assert "left out, by suffix: 2 .npy, 1 without one, 1 .txt; images are .png" in said[0]


def test_what_img2dataset_writes(tmp_path):
    folder = folder_of(tmp_path / "a")
    for name in ("00000", "00001"):
        pq.write_table(pa.table({"url": ["http://x"]}), folder / f"{name}.parquet")
        (folder / f"{name}_stats.json").write_text("{}")
    assert len(load_dataset(folder)) == 4
    pq.write_table(pa.table({"image": PICTURES[:1]}), folder / "train.parquet")
    assert loaded(folder)[0].samples[0].uri == "a/train.parquet#row=0"  # not of a shard


def test_splits_of_shards(tmp_path):
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-000.tar", {"0.png": PICTURES[split == "val"]})
    data, said = loaded(tmp_path)
    assert [sample.id for sample in data.samples] == ["train-000/0"]
    assert len(said) == 1 and "1 of 2 files are not of the split 'train'" in said[0]
    data, _ = loaded(tmp_path, split="validation")
    assert [sample.id for sample in data.samples] == ["val-000/0"]


def test_images_beside_archives_come_first(tmp_path):
    write_pictures(tmp_path, "a.png")
    write_tar(tmp_path / "b.tar", SHARD)
    data, said = loaded(tmp_path)
    assert len(data) == 1 and "1 .tar" in said[0]


def test_a_damaged_image_is_named_where_it_is_opened(tmp_path):
    data = load_dataset(write_tar(tmp_path / "a.tar", {"0.png": PICTURES[0][:-40], **SHARD}))
    with pytest.raises(BadImageError, match=r"'a/0' \(a.tar#0.png\)"):
        data.image(0)
    assert same(data.image(2), noise(1))
    (tmp_path / "a.tar").unlink()
    with pytest.raises(BadImageError, match="No such file"):
        data.image(2)


REFUSED = {
    "no images": ({"0.txt": "a cat"}, {}, ["a.tar holds no images"]),
    "no such key": (SHARD, {"caption_column": "text"}, ["no 'text'", "check"]),
    "no such suffix": (SHARD, {"image_column": "webp"}, ["holds no images"]),
    "no object": ({"0.png": PICTURES[0], "0.json": "[1]"}, {}, ["'0.json'", "JSON object"]),
    "no JSON": ({"0.png": PICTURES[0], "0.json": "{"}, {}, ["a.tar '0.json'", "JSON object"]),
    "Latin-1": ({"0.png": PICTURES[0], "0.txt": b"\xe9"}, {}, ["a.tar '0.txt'", "UTF-8"]),
    "a split": (SHARD, {"split": "test"}, ["a.tar has no split 'test'"]),
}


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
@pytest.mark.parametrize("files, options, words", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(tmp_path, files, options, words):
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(DatasetError) as excinfo:
        load_dataset(tmp_path / "a.tar", **options)
    assert all(word in message(excinfo) for word in words), message(excinfo)


def test_a_damaged_caption_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"0.png": PICTURES[0], "0.txt": "a cat" * 99})
    content = archive.read_bytes()
    place = content.index(b"0.txt") + 8
    archive.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    with pytest.raises(DatasetError, match=r"cannot read '0.txt' in .*a.zip"):
        load_dataset(archive)


def test_compressed_shards_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar.gz", SHARD, "w:gz")
    for source in (tmp_path, tmp_path / "a.tar.gz"):
        with pytest.raises(DatasetError, match=r"a.tar.gz is compressed.*`gunzip`"):
            load_dataset(source)
