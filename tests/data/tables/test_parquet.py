"""Parquet: kinds of columns, and a fingerprint that sees other images without reading them."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import encoded, loaded, noise, same

from headwater.data.sources import load_dataset, load_pictures
from headwater.errors import BadImageError, DatasetError

IMAGES = [encoded(noise(seed, 24)) for seed in range(5)]
CAPTIONS = ["a cat", "", "a red dog", "two birds", "a cat"]


def written(folder, images=IMAGES, captions=CAPTIONS, name="a.parquet", **options):
    columns = {"image": images, "caption": captions}
    pq.write_table(pa.table(columns), folder / name, **options)
    return folder / name


# --- captions -------------------------------------------------------------------------------------

KINDS = {
    "category": pa.array(CAPTIONS).dictionary_encode(),
    "string_view": pa.array(CAPTIONS, pa.string_view()),
    "large_string": pa.array(CAPTIONS, pa.large_string()),
    "list": pa.array([[text] for text in CAPTIONS]),
    "large_list": pa.array([[text] for text in CAPTIONS], pa.large_list(pa.large_string())),
    "list of views": pa.array([[text] for text in CAPTIONS], pa.list_(pa.string_view())),
    "fixed list": pa.array([[text] for text in CAPTIONS], pa.list_(pa.string(), 1)),
}


@pytest.mark.parametrize("column", KINDS.values(), ids=KINDS)
def test_every_kind_of_text_column_is_read(tmp_path, column):
    plain = load_dataset(written(tmp_path))
    for options in ({}, {"caption_column": "caption"}):
        data, said = loaded(written(tmp_path, captions=column, name="b.parquet"), **options)
        assert [sample.caption for sample in data.samples] == CAPTIONS and not said
        assert len(plain) == len(data)


def test_several_captions_of_a_row(tmp_path):
    texts = [["a cat", "an animal"], [], None, ["two birds", None], ["a", "a"]]
    data, said = loaded(written(tmp_path, captions=pa.array(texts)))
    assert [sample.caption for sample in data.samples] == ["a cat", "", "", "two birds", "a"]
    assert [bool(sample.captions) for sample in data.samples] == [True, *[False] * 4]
    assert data.samples[0].captions == ("a cat", "an animal")
    assert len(said) == 1 and "2 caption(s) are no text" in said[0]


@pytest.mark.parametrize("column", [[1, 2, 3, 4, 5], [{"raw": text} for text in CAPTIONS]])
def test_a_caption_column_of_another_kind_is_said(tmp_path, column):
    data, said = loaded(written(tmp_path, captions=pa.array(column)))
    assert not any(sample.caption for sample in data.samples)
    assert len(said) == 1 and said[0].startswith("the column 'caption' is ")


def test_images_as_views(tmp_path):
    data = load_dataset(written(tmp_path, images=pa.array(IMAGES, pa.binary_view())))
    assert same(data.image(3), noise(3, 24))


def test_text_that_is_no_utf8_is_refused(tmp_path):
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(DatasetError, match=r"cannot read .*a.parquet"):
        load_dataset(written(tmp_path, images=IMAGES[:1], captions=broken))


# --- splits ---------------------------------------------------------------------------------------


def test_splits_of_folders(tmp_path):
    for row, split in enumerate(("train", "test")):
        (tmp_path / "default" / split).mkdir(parents=True)
        written(tmp_path / "default" / split, IMAGES[row : row + 1], ["x"], "0000.parquet")
    data, said = loaded(tmp_path)
    assert len(data) == 1 and same(data.image(0), noise(0, 24))
    assert len(said) == 1 and "1 of 2 files are not of the split 'train'" in said[0]
    assert same(loaded(tmp_path, split="test")[0].image(0), noise(1, 24))
    assert len(load_dataset(tmp_path, split="all")) == 2


def test_tables_of_an_answer_are_no_data(tmp_path):
    written(tmp_path)
    (tmp_path / "star").mkdir()
    written(tmp_path / "star", name="scores.parquet")
    (tmp_path / "star" / "result.json").touch()
    data, said = loaded(tmp_path)
    assert len(data) == 5 and "1 folder(s) that headwater wrote" in said[0]


# --- fingerprints ---------------------------------------------------------------------------------


def longer(image: bytes) -> bytes:
    return image + b"\0"


def repainted(image: bytes) -> bytes:
    return image[:-40] + bytes([image[-40] ^ 1]) + image[-39:]


@pytest.mark.parametrize("compression", ["snappy", "none", "zstd"])
@pytest.mark.parametrize("change", [longer, repainted])
@pytest.mark.parametrize("row", [0, 4])
def test_other_images_are_seen(tmp_path, compression, change, row):
    before = load_dataset(written(tmp_path, compression=compression)).fingerprint
    images = [change(image) if i == row else image for i, image in enumerate(IMAGES)]
    after = load_dataset(written(tmp_path, images, compression=compression)).fingerprint
    assert before != after
    assert load_dataset(written(tmp_path, compression=compression)).fingerprint == before


def test_the_fingerprint_sees_captions_order_and_not_the_place(tmp_path):
    data = load_dataset(written(tmp_path))
    (tmp_path / "other").mkdir()
    moved = load_dataset(written(tmp_path / "other", name="b.parquet"))
    assert moved.fingerprint == data.fingerprint
    texts = load_dataset(written(tmp_path, captions=["x"] * 5))
    turned = load_dataset(written(tmp_path, images=IMAGES[::-1]))
    others = (texts, turned, data.first(3), data.take([1, 0]))
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_opening_reads_a_bounded_part_of_the_images(tmp_path, monkeypatch):
    images = [encoded(noise(seed, 128)) for seed in range(40)]
    file = written(tmp_path, images, ["x"] * 40, row_group_size=20)
    read = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            content = super().read(size)
            read.append(len(content))
            return content

    monkeypatch.setattr(Path, "open", lambda path, mode: Counted(path, mode))
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", None)  # which would read images
    columns = []
    iter_batches = pq.ParquetFile.iter_batches

    def batches(self, *args, **options):
        columns.append(options["columns"])
        return iter_batches(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", batches)
    load_dataset(file)
    assert columns == [["caption"]]
    assert 0 < sum(read) <= 2 * 3 * 4096 < sum(map(len, images)) / 10


def test_files_that_a_table_names_are_part_of_it(tmp_path):
    for row in range(2):
        noise(row).save(tmp_path / f"{row}.bmp")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": None, "path": f"{row}.bmp"} for row in range(2)]
    file = written(tmp_path, pa.array(cells, kind), ["x", "y"])
    before = load_dataset(file)
    noise(1, 9).save(tmp_path / "1.bmp")
    after = load_dataset(file)
    assert before.fingerprint != after.fingerprint and same(after.image(1), noise(1, 9))
    assert before.contents[0] == after.contents[0]


# --- damage ---------------------------------------------------------------------------------------


def test_damage_is_named_where_an_image_is_opened(tmp_path):
    file = written(tmp_path, row_group_size=1)
    content = file.read_bytes()
    file.write_bytes(content[:4] + b"\xff" * 300 + content[304:])
    data = load_dataset(file)
    with pytest.raises(BadImageError, match=r"'row-00000000' \(a.parquet#row=0\)"):
        data.image(0)
    assert same(data.image(4), noise(4, 24))


def test_a_file_without_the_column_is_named(tmp_path):
    written(tmp_path, name="train-0.parquet")
    pq.write_table(pa.table({"caption": ["x"]}), tmp_path / "train-1.parquet")
    with pytest.raises(DatasetError, match=r"cannot read .*train-1.parquet: .*no column 'image'"):
        load_dataset(tmp_path)


def test_pictures_alone_leave_captions_unread(tmp_path):
    path = written(tmp_path, captions=pa.array(["a cat"] * 5))
    shown, whole = load_pictures(str(path)), load_dataset(path)
    assert [sample.id for sample in shown.samples] == [sample.id for sample in whole.samples]
    assert not any(sample.caption for sample in shown.samples)
    assert shown.image(2).tobytes() == whole.image(2).tobytes()


def test_a_file_that_does_not_fit_into_memory_is_not_called_damaged(tmp_path, monkeypatch):
    def full(*given, **options):
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    path = written(tmp_path)
    monkeypatch.setattr(pq, "ParquetFile", full)
    with pytest.raises(MemoryError, match="malloc"):
        load_dataset(path)
