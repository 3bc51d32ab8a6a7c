"""What is listed: links followed, folders of headwater's own left out, nothing that hangs."""

import os
import sys

import pytest
from support.pictures import loaded, noise, write_pictures
from support.tiny import tiny_folder

from headwater import Concept, Denoiser, build_index
from headwater.data.folders.listing import INDEX_FORMAT, list_folder
from headwater.data.sources import load_dataset
from headwater.errors import BadImageError, DatasetError
from headwater.storage import manifest


def test_linked_folders_are_followed(tmp_path):
    write_pictures(tmp_path / "disk", "a.png", "deep/b.png")
    data = write_pictures(tmp_path / "data", "c.png")
    (data / "more").symlink_to("../disk")
    (data / "d.png").symlink_to("../disk/a.png")
    names = [sample.id for sample in load_dataset(data).samples]
    assert names == ["c.png", "d.png", "more/a.png", "more/deep/b.png"]


def test_a_link_to_where_it_lies_is_not_followed(tmp_path):
    write_pictures(tmp_path, "a.png", "sub/b.png")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "self").symlink_to("self")
    data, said = loaded(tmp_path)
    assert [sample.id for sample in data.samples] == ["a.png", "sub/b.png"]
    assert said == [
        "1 link(s) to a folder that they lie in are not followed, such as 'sub/up'",
    ]


def test_links_across_end(tmp_path):
    write_pictures(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "b").symlink_to("../b")
    (tmp_path / "b" / "a").symlink_to("../a")
    listing = list_folder(tmp_path)
    assert list(listing.names) == ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]
    assert list(listing.cycles) == ["a/b/a", "b/a/b"]


def test_index_and_answers_in_the_data_are_no_data(tmp_path, tiny_model):
    folder = tiny_folder(tmp_path / "data", 4)
    denoiser = Denoiser.load(tiny_model)
    recipe = {"method": "trak", "timesteps": 1, "dim": 16}
    index = build_index(denoiser, load_dataset(folder), folder / "index", **recipe)
    answer = folder / "headwater-answers" / "star"
    (answer / "star").mkdir(parents=True)
    for name in ("query.png", "star/top.png", "star/bottom.png"):
        noise(0).save(answer / name)
    for name in ("report.html", "star/result.json", "star/scores.parquet"):
        (answer / name).touch()
    (folder / "journey").mkdir()
    noise(0).save(folder / "journey" / "query.png")
    (folder / "journey" / "journey.json").touch()
    data, said = loaded(folder)
    assert len(data) == 4 and data.fingerprint == index.manifest.data["fingerprint"]
    assert said == [
        "3 folder(s) that headwater wrote are left out, such as 'headwater-answers/star'"
    ]
    assert len(index.attribute(Concept("a red star", "star", draws=1)).scores) == 4


def test_an_answer_in_the_data_folder_itself_is_no_data(tmp_path):
    write_pictures(tmp_path, "a.png", "query.png", "star/top.png")
    for name in ("report.html", "query.safetensors", "star/scores.parquet", "star/result.json"):
        (tmp_path / name).touch()
    data, said = loaded(tmp_path)
    assert [sample.id for sample in data.samples] == ["a.png"]
    assert any("2 folder(s) that headwater wrote" in line for line in said)


def test_pictures_of_these_names_alone_are_data(tmp_path):
    write_pictures(tmp_path, "query.png", "top.png", "x/query.png", "x/bottom.png")
    (tmp_path / "x" / "index.json").write_text("{}")
    assert len(loaded(tmp_path)[0]) == 4


def test_the_format_is_that_of_indexes():
    assert INDEX_FORMAT == manifest.FORMAT


def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    write_pictures(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    os.mkfifo(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "metadata.jsonl")
    data, _ = loaded(tmp_path)
    assert [sample.id for sample in data.samples] == ["a.png", "b.png"]
    with pytest.raises(BadImageError, match=r"'b.png'.*no regular file but a pipe"):
        data.image(1)
    with pytest.raises(DatasetError, match="neither a folder nor a regular file"):
        load_dataset(tmp_path / "b.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    write_pictures(tmp_path, "a.png", "sub/b.png")
    (tmp_path / "sub").chmod(0)
    try:
        with pytest.raises(DatasetError, match=r"cannot read the folder .*sub"):
            load_dataset(tmp_path)
    finally:
        (tmp_path / "sub").chmod(0o700)


def test_a_listing_reads_each_folder_once_and_no_picture(tmp_path):
    """As benchmarks/listing.py counts at scale."""
    write_pictures(tmp_path, *(f"{folder}/{name}.png" for folder in "ab" for name in "xyz"))
    (tmp_path / "a" / "x.txt").write_text("a cat")
    opened, scanned = [], []

    def note(event, given):
        own = {"open": opened, "os.scandir": scanned}.get(event)
        if own is not None and str(given[0]).startswith(str(tmp_path)):
            own.append(str(given[0]).removeprefix(f"{tmp_path}").strip("/"))

    sys.addaudithook(note)  # which cannot be taken away, and minds this folder alone
    assert len(load_dataset(tmp_path)) == 6
    assert sorted(scanned) == ["", "a", "b"] and opened == ["a/x.txt"]
