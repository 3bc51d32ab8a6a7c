"""An index of more images than another has takes that one's rows, and is the same as one anew."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file
from support.command_line import assert_refused
from support.command_line import headwater as run
from support.index_files import RECIPE
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Denoiser, Index, build_index, from_images, load_dataset
from headwater.errors import MismatchError, ParameterError, StoreError
from headwater.features.extractor import Extractor
from headwater.upkeep.remove import remove
from headwater.upkeep.verify import verify

SMALL = {**RECIPE, "dim": 16, "method": "trak", "batch_size": 1}


@pytest.fixture(scope="module")
def denoiser(tiny_model) -> Denoiser:
    return Denoiser.load(tiny_model, "cpu")


@pytest.fixture(scope="module")
def grown(tmp_path_factory, denoiser):
    """The images now, and an index of them before: 70, of which one more goes and some come."""
    at = tmp_path_factory.mktemp("reuse")
    images = tiny_folder(at / "images", 70)
    build_index(denoiser, load_dataset(images), at / "before", **SMALL)
    lines = (images / "metadata.jsonl").read_text().splitlines()
    (images / "train-00002.png").unlink()
    lines[7] = lines[7].replace("a ", "the ", 1)
    for name in ("a-first.png", "train-00003b.png"):
        shutil.copy(images / "train-00050.png", images / name)
        lines.append(f'{{"file_name": "{name}", "text": "a new star"}}')
    Picture.new("RGB", (16, 16), "red").save(images / "train-00068.png")  # another picture
    (images / "metadata.jsonl").write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    return at, load_dataset(images)


def computed(monkeypatch):
    """The ids that rows are computed of."""
    ids, image_rows = [], Extractor.image_rows

    def counted(self, images, captions, own, *more):
        ids.extend(own)
        return image_rows(self, images, captions, own, *more)

    monkeypatch.setattr(Extractor, "image_rows", counted)
    return ids


def shards(folder: Path):
    return [load_file(path) for path in sorted((folder / "features").glob("*.safetensors"))]


NEW = ["a-first.png", "train-00003b.png", "train-00007.png", "train-00068.png"]


def test_it_is_the_index_that_would_have_been_built(grown, denoiser, tmp_path, monkeypatch):
    at, data = grown
    ids, notes = computed(monkeypatch), []
    anew = build_index(denoiser, data, tmp_path / "anew", **SMALL)
    assert len(ids) == 71
    ids.clear()
    index = build_index(
        denoiser, data, tmp_path / "more", reuse=at / "before", note=notes.append, **SMALL
    )
    assert sorted(ids) == NEW
    assert f"67 of 71 rows are taken over from {at / 'before'}" in notes
    assert f"torch {torch.__version__}" in index.manifest.versions["rows taken over"]
    assert list(index.samples) == list(anew.samples) == list(data.samples)
    assert index.fingerprint == anew.fingerprint and verify(index.path) == []
    for ours, exact in zip(shards(index.path), shards(anew.path), strict=True):
        assert ours.keys() == exact.keys()
        for name in exact:
            torch.testing.assert_close(ours[name], exact[name])
    before = Index.open(at / "before")
    rows = [sample.id for sample in before.samples]
    stored = torch.cat([shard["features"] for shard in shards(before.path)])
    now = torch.cat([shard["features"] for shard in shards(index.path)])
    for row, sample in enumerate(index.samples):
        if sample.id not in NEW:  # to the bit: no rounding is added
            assert torch.equal(now[row], stored[rows.index(sample.id)])


def test_rows_of_removed_images_are_not_taken_over(grown, denoiser, tmp_path, monkeypatch):
    at, data = grown
    less = shutil.copytree(at / "before", tmp_path / "less")
    remove(less, ids=["train-00040.png", "train-00001.png"])
    ids = computed(monkeypatch)
    index = build_index(denoiser, data, tmp_path / "more", reuse=less, **SMALL)
    assert sorted(ids) == sorted([*NEW, "train-00040.png", "train-00001.png"])
    anew = build_index(denoiser, data, tmp_path / "anew", **SMALL)
    for ours, exact in zip(index.blocks(), anew.blocks(), strict=True):
        torch.testing.assert_close(ours, exact)


def test_further_checkpoints_too(tmp_path, denoiser, monkeypatch):
    other = tiny_pipeline(tmp_path / "other", seed=1)
    data = load_dataset(tiny_folder(tmp_path / "images", 6))
    build_index(denoiser, data.first(4), tmp_path / "before", checkpoints=[other], **SMALL)
    ids = computed(monkeypatch)
    index = build_index(
        denoiser, data, tmp_path / "more", checkpoints=[other], reuse=tmp_path / "before", **SMALL
    )
    assert len(ids) == 4 and len(index.checkpoints[0]) == 6


def test_workers_take_rows_over_too(grown, denoiser, tmp_path):
    from headwater.runtime.executor import Executor

    at, data = grown
    index = build_index(
        denoiser, data, tmp_path / "more", reuse=at / "before", executor=Executor(jobs=2), **SMALL
    )
    alone = build_index(denoiser, data, tmp_path / "alone", reuse=at / "before", **SMALL)
    for ours, exact in zip(index.blocks(), alone.blocks(), strict=True):
        assert torch.equal(ours, exact)


def test_what_cannot_be_taken_over_is_refused(grown, denoiser, tmp_path):
    at, data = grown
    with pytest.raises(MismatchError, match=r"recipe seed = 0, this index has 1.*--reuse"):
        build_index(denoiser, data, tmp_path / "a", reuse=at / "before", **SMALL, seed=1)
    with pytest.raises(StoreError, match="no index at"):
        build_index(denoiser, data, tmp_path / "b", reuse=tmp_path / "none", **SMALL)
    with pytest.raises(ParameterError, match="in the metric of a curvature"):
        build_index(
            denoiser, data, tmp_path / "c", reuse=at / "before", **{**SMALL, "method": "ekfac"}
        )
    assert [path.name for path in tmp_path.iterdir() if path.name in "abc"] == []
    pictures = [Picture.new("RGB", (16, 16), color) for color in ("red", "blue")]
    memory = from_images(pictures, ["a star", "a moon"])
    index = build_index(denoiser, memory, tmp_path / "d", **SMALL)
    assert len(build_index(denoiser, memory, tmp_path / "e", reuse=index.path, **SMALL)) == 2


def test_an_index_that_does_not_say_what_has_changed(grown, denoiser, tmp_path):
    import pyarrow.parquet as pq

    from headwater.storage.files import write_table
    from headwater.storage.manifest import read_manifest
    from headwater.storage.shards import finish

    at, data = grown
    old = shutil.copytree(at / "before", tmp_path / "old")
    write_table(old / "samples.parquet", pq.read_table(old / "samples.parquet").drop("content"))
    manifest = read_manifest(old)
    finish(old, manifest, manifest.shards)
    assert len(Index.open(old)) == 70
    with pytest.raises(MismatchError, match="does not say which of its images have changed"):
        build_index(denoiser, data, tmp_path / "new", reuse=old, **SMALL)


def test_the_command_says_how_to_go_on_with_more_images(grown, tiny_model, tmp_path):
    _, data = grown
    how = [*"--method trak --timesteps 1 --dim 16 --parameters attn2".split()]
    first = run("index", tiny_model, data.source, tmp_path / "one", "--limit", 5, *how)
    assert first.code == 0, first.err
    again = run("index", tiny_model, data.source, tmp_path / "one", *how)
    assert_refused(again, f"use another folder with --reuse {tmp_path / 'one'}")
    more = run(
        "index", tiny_model, data.source, tmp_path / "two", "--reuse", tmp_path / "one", *how
    )
    assert more.code == 0 and "5 of 71 rows are taken over" in more.err
