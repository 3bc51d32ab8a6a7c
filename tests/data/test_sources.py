"""Training sets: every source against what the test itself put there, and every refusal."""

import hashlib
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.pictures import encoded, loaded, message, noise, same

import headwater
from headwater.data.captions import with_trigger
from headwater.data.memory import from_images
from headwater.data.sources import load_dataset
from headwater.data.tables.hugging_face import from_hf_dataset
from headwater.data.training_set import joined
from headwater.errors import BadImageError, DatasetError
from headwater.scenes.dataset import SPLITS, Split, pictures, write_image_folder

datasets.disable_progress_bars()


CAPTIONS = ["a cat", "", "a red dog", "two birds", "a cat"]
IMAGES = [noise(seed) for seed in range(5)]


# --- a trigger word -------------------------------------------------------------------------------


def test_captions_as_a_trainer_made_them(tmp_path):
    """Before each, but where it stands already; and found again by what the index keeps."""
    said = {"a": "a cat", "b": "photo of [trigger], smiling", "c": "sks sits", "d": "", "e": None}
    for seed, (name, caption) in enumerate(said.items()):
        noise(seed).save(tmp_path / f"{name}.png")
        if caption is not None:
            (tmp_path / f"{name}.txt").write_text(caption)
    data = load_dataset(tmp_path, trigger="sks")
    assert [s.caption for s in data.samples] == [
        "sks a cat", "photo of sks, smiling", "sks sits", "sks", "sks",
    ]  # fmt: skip
    plain = load_dataset(tmp_path)
    assert data.fingerprint != plain.fingerprint and data.options == {"trigger": "sks"}
    assert load_dataset(data.source, **data.options).fingerprint == data.fingerprint
    assert same(data.first(2).image(1), plain.image(1))
    assert load_dataset(tmp_path, trigger="").fingerprint == plain.fingerprint


def test_several_captions_have_it_each():
    data = with_trigger(load_dataset("scenes").take([3]), "sks,")
    several = replace(data.samples[0], captions=("a star", "two stars"), repeats=4)
    both = with_trigger(replace(data, samples=[several]), "ohwx")
    assert both.samples[0].all_captions == ("ohwx a star", "ohwx two stars")
    assert both.samples[0].repeats == 4 and data.samples[0].caption.startswith("sks, a ")
    assert load_dataset("scenes", trigger="x").options == {"trigger": "x"}


# --- the bundled scenes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, split, expected",
    [("scenes", "unseen", "unseen"), ("scenes:validation", "train", "validation")],
)
def test_scenes_are_the_pictures_of_the_split(source, split, expected):
    data, truth = load_dataset(source, split=split), pictures(expected)
    assert [(s.id, s.caption) for s in data.samples] == [(p.id, p.caption) for p in truth]
    assert data.source == f"scenes:{expected}"
    assert data.samples[7].uri == f"scenes:{truth[7].id}"
    assert same(data.image(7), truth[7].draw())


def test_scenes_are_drawn_only_when_asked_for(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "headwater.scenes.dataset.draw", lambda scene: drawn.append(scene) or IMAGES[0]
    )
    data = load_dataset("scenes")
    assert data.source == "scenes" and len(data) == SPLITS["train"].size and not drawn
    data.image(3)
    assert len(drawn) == 1


def test_scenes_written_as_a_folder_come_back(tmp_path, monkeypatch):
    monkeypatch.setitem(SPLITS, "tiny", Split(4, seed=111))
    folder, scenes = load_dataset(write_image_folder(tmp_path, "tiny")), load_dataset("scenes:tiny")
    assert [s.caption for s in folder.samples] == [s.caption for s in scenes.samples]
    assert [s.id for s in folder.samples] == [f"{s.id}.png" for s in scenes.samples]
    assert all(same(folder.image(row), scenes.image(row)) for row in range(4))


# --- image folders -----------------------------------------------------------------------------


def test_folder_ids_are_sorted_paths_and_captions_come_from_metadata_then_text(tmp_path):
    root = tmp_path / "pets"
    files = {
        "b.png": "PNG",
        "A.JPG": "JPEG",
        "deep/er/c.webp": "WEBP",
        "deep/d.bmp": "BMP",
        "z.jpeg": "JPEG",
    }
    for seed, (name, format) in enumerate(files.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(noise(seed), format))
    lines = [
        {"file_name": "b.png", "prompt": "prompt", "text": "text"},
        {"file_name": "./deep/d.bmp", "caption": "caption"},
        {"file_name": "z.jpeg", "label": 3},
    ]
    (root / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    (root / "deep" / "er" / "metadata.jsonl").write_text('{"file_name": "c.webp", "text": "deep"}')
    (root / "b.txt").write_text("not this one")
    (root / "z.txt").write_text("\ufeffbeside, Zoë\r\n", encoding="utf-8")
    (root / ".thumbs").mkdir()
    (root / ".thumbs" / "b.png").write_bytes(b"hidden")
    (root / "notes.md").write_text("no image")

    data, said = loaded(root)
    assert said == [
        "1 caption file(s) are not read, such as 'b.txt': the caption of their image stands in a "
        "metadata file or in a .txt file",
    ]
    assert [(s.id, s.caption, s.uri) for s in data.samples] == [
        ("A.JPG", "", "pets/A.JPG"),
        ("b.png", "text", "pets/b.png"),
        ("deep/d.bmp", "caption", "pets/deep/d.bmp"),
        ("deep/er/c.webp", "deep", "pets/deep/er/c.webp"),
        ("z.jpeg", "beside, Zoë", "pets/z.jpeg"),
    ]
    for row, sample in enumerate(data.samples):
        assert same(data.image(row), Image.open(root / sample.id).convert("RGB"))
    by_key, _ = loaded(root, caption_column="prompt")
    assert [s.caption for s in by_key.samples][:2] == ["", "prompt"]


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    noise(0).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path.parent)
    data = load_dataset(tmp_path.name)
    assert data.source == str(tmp_path.resolve())
    monkeypatch.chdir("/")
    assert load_dataset(data.source).fingerprint == data.fingerprint
    assert same(data.image(-1), noise(0))
    with pytest.raises(IndexError):
        data.image(1)


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.new("L", (2, 2), 90), (90, 90, 90)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), (255, 204, 204)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("RGB", (2, 2), (1, 2, 3)).convert("P"), None),
        (Image.fromarray(np.full((2, 2), 257 * 90, np.uint16)), (90, 90, 90)),
    ],
    ids=["grey", "bilevel", "clear", "a fifth red", "clear grey", "palette", "16 bit"],
)
def test_every_mode_becomes_rgb_on_white(tmp_path, image, expected):
    image.save(tmp_path / "a.png")
    seen = load_dataset(tmp_path).image(0)
    assert seen.mode == "RGB"
    assert seen.getpixel((1, 1)) == (expected or image.convert("RGB").getpixel((1, 1)))
    assert same(from_images([image], [""]).image(0), seen)


def test_a_transparent_palette_colour_is_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "a.png", transparency=0)
    seen = load_dataset(tmp_path).image(0)
    assert [seen.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


@pytest.mark.parametrize(
    "orientation, turns, mirrored", [(3, 2, False), (6, 3, False), (5, 3, True)]
)
def test_exif_orientation_is_applied(tmp_path, orientation, turns, mirrored):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(pixels, turns)
    seen = np.asarray(load_dataset(tmp_path).image(0))
    assert np.array_equal(seen, upright[:, ::-1] if mirrored else upright)


# --- parquet and Hugging Face data sets --------------------------------------------------------


def hf_dataset(**columns) -> datasets.Dataset:
    columns = {"image": IMAGES, "text": CAPTIONS} | columns
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def plain_table(**columns) -> pa.Table:
    return pa.table({"image": [encoded(image) for image in IMAGES], "caption": CAPTIONS} | columns)


def rows_are_the_originals(data, rows=range(5)) -> bool:
    captions = [sample.caption for sample in data.samples] == [CAPTIONS[row] for row in rows]
    backwards = list(enumerate(rows))[::-1]
    return captions and all(same(data.image(row), IMAGES[i]) for row, i in backwards)


def saved(tmp_path: Path) -> Path:
    hf_dataset().save_to_disk(tmp_path / "set")
    return tmp_path / "set"


def saved_splits(tmp_path: Path) -> Path:
    datasets.DatasetDict(train=hf_dataset(), test=hf_dataset().select([4])).save_to_disk(tmp_path)
    return tmp_path


def hf_parquet(tmp_path: Path) -> Path:
    hf_dataset().to_parquet(tmp_path / "a.parquet", batch_size=2)
    return tmp_path / "a.parquet"


def plain_parquet(tmp_path: Path) -> Path:
    pq.write_table(plain_table(), tmp_path / "a.parquet", row_group_size=2)
    return tmp_path / "a.parquet"


def large_types(tmp_path: Path) -> Path:
    kinds = pa.schema([("image", pa.large_binary()), ("caption", pa.large_string())])
    pq.write_table(plain_table().cast(kinds), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def named_files(tmp_path: Path) -> Path:
    for row, image in enumerate(IMAGES):
        image.save(tmp_path / f"{row}.png")
    cells = [{"bytes": None, "path": f"{row}.png"} for row in range(5)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(plain_table(image=pa.array(cells, kind)), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def sharded(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text("a card")
    pq.write_table(plain_table().slice(0, 2), tmp_path / "train-0-of-2.parquet")
    pq.write_table(plain_table().slice(2), tmp_path / "train-1-of-2.parquet")
    pq.write_table(plain_table().slice(1, 1), tmp_path / "validation.parquet")
    return tmp_path


@pytest.mark.parametrize(
    "make, uri",
    [
        (saved, "set#row=3"),
        (saved_splits, "{name}#row=3"),
        (hf_parquet, "a.parquet#row=3"),
        (plain_parquet, "a.parquet#row=3"),
        (large_types, "a.parquet#row=3"),
        (named_files, "a.parquet#row=3"),
        (sharded, "{name}/train-1-of-2.parquet#row=1"),
    ],
)
def test_tables_give_the_originals_back(tmp_path, make, uri):
    data, _ = loaded(make(tmp_path))
    assert rows_are_the_originals(data)
    assert [sample.id for sample in data.samples] == [f"row-0000000{row}" for row in range(5)]
    assert data.samples[3].uri == uri.format(name=tmp_path.name)


@pytest.mark.parametrize(
    "make, split, row", [(saved_splits, "test", 4), (sharded, "validation", 1)]
)
def test_a_split_can_be_chosen(tmp_path, make, split, row):
    assert rows_are_the_originals(loaded(make(tmp_path), split=split)[0], [row])


@pytest.mark.parametrize("ids", [list("edcba"), [5, 4, 3, 2, 1]])
def test_ids_come_from_an_id_column(tmp_path, ids):
    pq.write_table(plain_table(id=ids), tmp_path / "a.parquet")
    data = load_dataset(tmp_path / "a.parquet")
    assert [sample.id for sample in data.samples] == list(map(str, ids))
    assert [s.id for s in from_hf_dataset(hf_dataset(id=ids)).samples] == list(map(str, ids))


@pytest.mark.parametrize(
    "names, given, caption",
    [
        ({"image": "img", "text": "description"}, {}, "a red dog"),
        ({"image": "picture"}, {}, "a red dog"),
        ({"image": "picture", "text": "said"}, {"caption_column": "said"}, "a red dog"),
        ({"text": "said"}, {"image_column": "image"}, ""),
    ],
)
def test_columns_are_found_or_given(tmp_path, names, given, caption):
    dataset = hf_dataset(number=[0] * 5).rename_columns(names)
    dataset.to_parquet(tmp_path / "a.parquet")
    for data in (from_hf_dataset(dataset, **given), load_dataset(tmp_path / "a.parquet", **given)):
        assert data.samples[2].caption == caption
        assert same(data.image(2), IMAGES[2])


def test_a_dataset_in_memory_may_be_shuffled_and_formatted():
    dataset = hf_dataset().select([4, 0, 2]).with_format("numpy")
    data = from_hf_dataset(dataset, source="someone/pets")
    assert rows_are_the_originals(data, [4, 0, 2])
    assert data.source == "someone/pets" and data.samples[1].uri == "someone/pets#row=1"


def test_missing_captions_are_empty(tmp_path):
    pq.write_table(plain_table(caption=["a", None, "b", None, "c"]), tmp_path / "a.parquet")
    data, said = loaded(tmp_path / "a.parquet")
    assert [sample.caption for sample in data.samples] == ["a", "", "b", "", "c"]
    assert len(said) == 1 and "2 caption(s) are no text" in said[0] and "None (row 1)" in said[0]


def test_never_are_all_images_of_a_parquet_file_in_memory(tmp_path):
    images = [encoded(noise(seed, 64)) for seed in range(64)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=4)
    before = pa.total_allocated_bytes()
    data = load_dataset(tmp_path / "a.parquet")
    for row in range(64):
        data.image(row)
        assert pa.total_allocated_bytes() - before < sum(map(len, images)) / 2


def test_images_in_memory():
    data = from_images(IMAGES, CAPTIONS)
    assert rows_are_the_originals(data)
    assert data.samples[4].id == "row-00000004"
    assert [s.id for s in from_images(IMAGES, CAPTIONS, list("abcde")).samples] == list("abcde")


@pytest.mark.skipif("HEADWATER_DATA" not in os.environ, reason="HEADWATER_DATA is not set")
def test_emoji_styles():
    file = Path(os.environ["HEADWATER_DATA"]) / "emoji-styles" / "train.parquet"
    data, truth = load_dataset(file), pq.read_table(file, columns=["id", "image", "caption"])
    assert [sample.id for sample in data.samples] == truth["id"].to_pylist()
    assert [sample.caption for sample in data.samples] == truth["caption"].to_pylist()
    for row in (0, 4_108, 2_222, 499, 500):
        original = Image.open(io.BytesIO(truth["image"][row].as_py()["bytes"]))
        assert same(data.image(row), original.convert("RGB"))
    assert load_dataset(file.parent).fingerprint == data.fingerprint


# --- fingerprints ------------------------------------------------------------------------------


def folder_of(tmp_path: Path, captions=("a", "b", "c"), sizes=(8, 8, 8)) -> Path:
    tmp_path.mkdir(exist_ok=True)
    for seed, (caption, size) in enumerate(zip(captions, sizes, strict=True)):
        noise(seed, size).save(tmp_path / f"{seed}.bmp")
        (tmp_path / f"{seed}.txt").write_text(caption)
    return tmp_path


def test_fingerprint_is_the_documented_hash(tmp_path):
    lines = b'["0.bmp", "a", 246]\n["1.bmp", "\\u00e9\\"", 246]\n["2.bmp", "c", 306]\n'
    data = load_dataset(folder_of(tmp_path, ("a", 'é"', "c"), (8, 8, 9)))
    assert [(tmp_path / f"{i}.bmp").stat().st_size for i in range(3)] == [246, 246, 306]
    assert data.fingerprint == hashlib.sha256(lines).hexdigest()
    first = b"".join(lines.splitlines(True)[:2])
    assert data.first(2).fingerprint == hashlib.sha256(first).hexdigest()


def test_fingerprint_sees_captions_sizes_and_rows_but_not_the_place(tmp_path):
    data = load_dataset(folder_of(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    assert load_dataset(tmp_path / "moved").fingerprint == data.fingerprint
    others = [
        load_dataset(folder_of(tmp_path / "b", captions=("a", "b", "d"))),
        load_dataset(folder_of(tmp_path / "c", sizes=(8, 8, 9))),
        data.first(2),
    ]
    assert len({other.fingerprint for other in [data, *others]}) == 4


def test_first_rows_are_a_training_set(tmp_path):
    data = load_dataset(plain_parquet(tmp_path))
    assert rows_are_the_originals(data.first(3), range(3))
    assert data.first(3).first(2).fingerprint == data.first(2).fingerprint
    assert len(data.first(99)) == 5 and data.first(99).fingerprint == data.fingerprint
    with pytest.raises(IndexError):
        data.first(3).image(3)
    with pytest.raises(DatasetError, match="holds no images"):
        data.first(-1)


def test_sets_are_joined_one_after_the_other(tmp_path):
    folder, table = load_dataset(folder_of(tmp_path / "a")), load_dataset(plain_parquet(tmp_path))
    both = joined("both", [folder, table.take([3, 1])])
    assert both.source == "both" and list(both.samples) == [
        *folder.samples,
        table.samples[3],
        table.samples[1],
    ]
    last = len(folder)
    for row, (data, own) in {0: (folder, 0), last: (table, 3), last + 1: (table, 1)}.items():
        assert same(both.image(row), data.image(own))
    contents = [table.contents[row] for row in (3, 1)]
    assert list(both.contents) == [*folder.contents, *contents]
    with pytest.raises(DatasetError, match="make it unique"):
        joined("twice", [folder, folder])


# --- damaged images ----------------------------------------------------------------------------

PNG = encoded(noise(0))
DAMAGED = {
    "truncated": PNG[:-40],
    "text": b"<html>404 Not Found</html>",
    "empty": b"",
    "half a header": PNG[:20],
    "jpeg": encoded(noise(0, 64), "JPEG")[:-500],
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_image_is_named_where_it_is_opened(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(BadImageError) as excinfo:
        load_dataset(tmp_path).image(0)
    assert f"'bad.png' ({tmp_path.name}/bad.png)" in message(excinfo)
    assert "--skip-bad" in message(excinfo)

    pq.write_table(plain_table(image=[PNG, content, PNG, None, PNG]), tmp_path / "a.parquet")
    data = load_dataset(tmp_path / "a.parquet")
    for row in (1, 3):
        with pytest.raises(BadImageError, match=rf"'row-0000000{row}' \(a.parquet#row={row}\)"):
            data.image(row)
    assert same(data.image(2), noise(0))


def test_a_file_that_is_gone_is_a_bad_image(tmp_path):
    data = load_dataset(folder_of(tmp_path))
    (tmp_path / "1.bmp").unlink()
    (tmp_path / "3.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(BadImageError, match=r"1\.bmp.*No such file"):
        data.image(1)
    data, said = loaded(tmp_path)
    assert data.contents[-1] == 0
    assert len(said) == 1 and "left out (1 .txt)" in said[0]  # whose image is gone


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_no_damage_leaks_an_exception_of_pillow(tmp_path, format):
    exif = Image.Exif()
    exif[0x0112] = 6
    good = np.frombuffer(encoded(noise(1), format, exif=exif), np.uint8)
    rng = np.random.default_rng(0)
    contents = [good[: rng.integers(len(good))].tobytes() for _ in range(60)]
    for _ in range(200):
        flipped = good.copy()
        flipped[rng.integers(min(len(good), 120), size=2)] = rng.integers(256, size=2)
        contents.append(flipped.tobytes())
    pq.write_table(pa.table({"image": contents}), tmp_path / "a.parquet")
    data = load_dataset(tmp_path / "a.parquet")
    bad = 0
    for row in range(len(data)):
        try:
            assert data.image(row).mode == "RGB"
        except BadImageError:
            bad += 1
    assert bad > 30


# --- what is refused ---------------------------------------------------------------------------


def with_metadata(tmp_path: Path, *lines: str) -> Path:
    folder_of(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path


def parquet_of(tmp_path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def written(tmp_path: Path, name: str, content: bytes) -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def damaged_save(tmp_path: Path, name: str) -> Path:
    saved(tmp_path)
    return written(tmp_path / "set", name, b"garbage").parent


def lacking(tmp_path: Path) -> Path:
    pq.write_table(plain_table(id=list("abcde")), tmp_path / "train-0.parquet")
    pq.write_table(plain_table(), tmp_path / "train-1.parquet")
    return tmp_path


GOOD = '{"file_name": "0.bmp", "text": "a"}'
REFUSED = {
    "no such path": (lambda p: p / "nowhere", {}, ["no file or folder", "nowhere", "check"]),
    "no such parquet": (lambda p: "nowhere.parquet", {}, ["no file or folder"]),
    "no such hub name": (lambda p: "no/such", {}, ["'no/such'", "reach", "name", "network"]),
    "no such plain name": (lambda p: "nosuch", {}, ["'nosuch'", "no such path", "'train'"]),
    "no such scenes": (lambda p: "scenes:dawn", {}, ["scenes:dawn", *SPLITS]),
    "no such scenes split": (lambda p: "scenes", {"split": "dawn"}, ["scenes:dawn", *SPLITS]),
    "empty folder": (lambda p: p, {}, ["holds no", ".png", ".parquet"]),
    "other file": (lambda p: written(p, "a.bin", b"PK"), {}, ["a.bin", "parquet"]),
    "other metadata": (
        lambda p: with_metadata(p, GOOD, '{"file_name": "9.bmp"}'),
        {},
        ["metadata.jsonl line 2", "'9.bmp'"],
    ),
    "metadata outside": (
        lambda p: with_metadata(p, '{"file_name": "../0.bmp"}'),
        {},
        ["metadata.jsonl line 1", "'../0.bmp'"],
    ),
    "no JSON": (lambda p: with_metadata(p, GOOD, "", "{oops"), {}, ["line 3", "JSON"]),
    "no object": (lambda p: with_metadata(p, "[1]"), {}, ["line 1", "file_name"]),
    "no file_name": (lambda p: with_metadata(p, '{"text": "a"}'), {}, ["line 1", "file_name"]),
    "no such key": (
        lambda p: with_metadata(p, GOOD),
        {"caption_column": "said"},
        ["metadata.jsonl", "'said'", "--caption-column"],
    ),
    "Latin-1": (lambda p: written(folder_of(p), "0.txt", b"\xe9").parent, {}, ["0.txt", "UTF-8"]),
    "folder without splits": (folder_of, {"split": "test"}, ["no split 'test'", "train"]),
    "file without splits": (plain_parquet, {"split": "test"}, ["no split 'test'", "train"]),
    "files without it": (sharded, {"split": "test"}, ["no split 'test'"]),
    "saved without it": (saved_splits, {"split": "dev"}, ["no split 'dev'", "train, test"]),
    "same ids": (
        lambda p: parquet_of(p, image=[PNG] * 4, id=list("abcb")),
        {},
        ["a.parquet", "2 images", "'b'"],
    ),
    "an id missing": (
        lambda p: parquet_of(p, image=[PNG] * 2, id=["a", None]),
        {},
        ["no id in row 1"],
    ),
    "no images": (
        lambda p: parquet_of(p, url=["a"], n=[1]),
        {},
        ["a.parquet", "'image' of images; name as --image-column one of url (string), n (int64)"],
    ),
    "no such column": (
        plain_parquet,
        {"image_column": "picture"},
        ["no column 'picture' of images; it has image (binary), caption (string)"],
    ),
    "columns of scenes": (
        lambda p: "scenes",
        {"caption_column": "caption"},
        ["scenes have no columns", "leave --image-column, --caption-column out"],
    ),
    "columns of files": (
        folder_of,
        {"image_column": "image"},
        ["holds image files, not columns: leave --image-column out"],
    ),
    "no such caption": (
        plain_parquet,
        {"caption_column": "image"},
        ["no column 'image' of text; it has ", "caption (string)"],
    ),
    "no rows": (lambda p: parquet_of(p, image=pa.array([], pa.binary())), {}, ["no images"]),
    "no parquet": (lambda p: written(p, "a.parquet", b"PAR1"), {}, ["a.parquet"]),
    "lacking column": (lacking, {}, ["cannot read", "id"]),
    "damaged save": (
        lambda p: damaged_save(p, "data-00000-of-00001.arrow"),
        {},
        ["cannot load", "save_to_disk"],
    ),
    "empty state": (
        lambda p: written(saved(p), "state.json", b"[]").parent,
        {},
        ["cannot load", "save_to_disk"],
    ),
    "damaged state": (lambda p: damaged_save(p, "state.json"), {}, ["cannot load", "save_to_disk"]),
}


@pytest.mark.parametrize("make, options, words", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line_that_names_it(tmp_path, make, options, words):
    with pytest.raises(DatasetError) as excinfo:
        load_dataset(make(tmp_path), **options)
    assert all(word in message(excinfo) for word in words), message(excinfo)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: from_images([], []), ["no images"]),
        (lambda: from_images(IMAGES, CAPTIONS[:4]), ["5 images", "4 captions"]),
        (lambda: from_images(IMAGES, CAPTIONS, ["a"] * 5), ["'a'"]),
        (
            lambda: from_hf_dataset(datasets.DatasetDict(train=hf_dataset())),
            ["DatasetDict", "split"],
        ),
        (
            lambda: from_hf_dataset(hf_dataset().to_iterable_dataset()),
            ["is a stream", "to_parquet"],
        ),
        (lambda: from_hf_dataset(hf_dataset().remove_columns("image")), ["text (string)"]),
    ],
)
def test_python_users_are_refused_likewise(call, words):
    with pytest.raises(DatasetError) as excinfo:
        call()
    assert all(word in message(excinfo) for word in words), message(excinfo)


@pytest.mark.parametrize(
    "source", [["a.png"], None, 3, hf_dataset(), b"a", "", "  "], ids=lambda s: type(s).__name__
)
def test_what_is_no_source_is_refused(source):
    with pytest.raises(DatasetError, match="load_dataset takes a path or a name, not") as excinfo:
        inspect.unwrap(load_dataset)(source)  # without the type check of the tests
    assert "from_hf_dataset" in message(excinfo)


def test_without_datasets_the_extra_is_named(tmp_path, monkeypatch):
    source = saved(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in (str(source), "someone/pets"):
        with pytest.raises(DatasetError, match=r"pip install 'headwater\[datasets\]'"):
            load_dataset(name)
    assert rows_are_the_originals(load_dataset(plain_parquet(tmp_path)))


def test_a_hub_name_is_loaded_by_datasets(monkeypatch):
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: asked.append((name, split)) or hf_dataset()
    )
    data = load_dataset("someone/pets", split="test")
    assert rows_are_the_originals(data)
    assert asked == [("someone/pets", "test")] and data.source == "someone/pets"


def test_importing_it_is_light():
    code = "import sys, headwater.data.sources; print(*sys.modules)"
    path = str(Path(headwater.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path}
    )
    assert "headwater.data.sources" in done.stdout
    assert not {"torch", "datasets", "diffusers", "pyarrow"} & set(done.stdout.split())
