"""An index of more images than another has takes that one's rows, and is the same as one anew."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file
from support.command_line import assert_refused
from support.command_line import headwater as run
from support.index_files import RECIPE, files, rewrite_manifest, rows
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Denoiser, Image, Index, build_index, from_images, load_dataset
from headwater.errors import HeadwaterWarning, MismatchError, ParameterError, StoreError
from headwater.features.extractor import Extractor
from headwater.index.building import begin, one_model, reuse, workers
from headwater.index.building.reuse import kept_rows
from headwater.runtime.executor import Executor
from headwater.storage.manifest import read_manifest
from headwater.upkeep.card import card_of
from headwater.upkeep.remove import remove
from headwater.upkeep.repair import repair
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
    with pytest.raises(MismatchError, match=r"recipe curvature = None, this index has ekfac"):
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
    from headwater.storage.shards import finish

    at, data = grown
    old = shutil.copytree(at / "before", tmp_path / "old")
    write_table(old / "samples.parquet", pq.read_table(old / "samples.parquet").drop("content"))
    manifest = read_manifest(old)
    finish(old, manifest, manifest.shards)
    assert len(Index.open(old)) == 70
    with pytest.raises(MismatchError, match="does not say which of its images have changed"):
        build_index(denoiser, data, tmp_path / "new", reuse=old, **SMALL)


def test_the_command_says_how_to_go_on_with_more_images(grown, tiny_model, tmp_path, monkeypatch):
    """The old index may lie at a URL."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    _, data = grown
    how = [*"--method trak --timesteps 1 --dim 16 --parameters attn2".split()]
    first = run("index", tiny_model, data.source, tmp_path / "one", "--limit", 5, *how)
    assert first.code == 0, first.err
    again = run("index", tiny_model, data.source, tmp_path / "one", *how)
    assert_refused(again, f"use another folder with --reuse {tmp_path / 'one'}")
    command = ("index", tiny_model, data.source, tmp_path / "two", "--reuse", tmp_path / "one")
    planned = run(*command, *how, "--dry-run")
    facts = dict(line.rsplit(None, 1) for line in planned.out.splitlines())
    assert [facts[name] for name in ("rows", "rows taken over", "probes")] == ["71", "5", "66"]
    assert_refused(run(*command, *how, "--dry-run", "--seed", 1), "rows are not taken over, leave")
    assert not (tmp_path / "two").exists()
    more = run(*command[:-1], f"file://{tmp_path / 'one'}", *how)
    assert more.code == 0 and "5 of 71 rows are taken over" in more.err


def test_an_index_is_not_removed_for_one_that_is_to_take_its_rows_over(grown, denoiser, tmp_path):
    at, data = grown
    own = Path(shutil.copytree(at / "before", tmp_path / "own"))
    (tmp_path / "link").symlink_to(own)
    for same in (own, tmp_path / "link"):
        with pytest.raises(ParameterError, match=r"--overwrite removes .*own.*--reuse"):
            build_index(denoiser, data, own, reuse=same, overwrite=True, **SMALL)
    assert verify(own) == []


# --- rows in the metric of a curvature ------------------------------------------------------------

CURVED = {**SMALL, "dim": 64, "method": "ekfac-presence"}
FIRST, ALL = 7, 11
FITTED = f"fitted to {FIRST} of the {ALL} images"


@pytest.fixture(scope="module")
def curved(tmp_path_factory, denoiser):
    """An index of seven images, one of these and of those that came, and these images."""
    at = tmp_path_factory.mktemp("curved")
    data = load_dataset(tiny_folder(at / "images", ALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(begin, "default_shard_rows", lambda rows: 8)  # two shards of all
        build_index(denoiser, data.first(FIRST), at / "before", **CURVED)
        build_index(denoiser, data, at / "more", reuse=at / "before", **CURVED)
        yield at, data


def test_rows_of_new_images_are_in_the_metric_of_the_old_ones(
    curved, denoiser, tmp_path, monkeypatch
):
    at, data = curved
    ids, notes = computed(monkeypatch), []
    index = build_index(
        denoiser, data, tmp_path / "new", reuse=at / "before", note=notes.append, **CURVED
    )
    assert ids == [sample.id for sample in data.samples[FIRST:]]
    assert f"the curvature is taken over too: {FITTED}" in notes and verify(index.path) == []
    for name in ("bases", "moments"):
        file = f"curvature/{name}.safetensors"
        assert (index.path / file).read_bytes() == (at / "before" / file).read_bytes()

    # all computed in that metric: they are to the bit what was there, and what is new
    monkeypatch.setattr(one_model, "kept_rows", lambda *of: replace(kept_rows(*of), rows={}))
    with pytest.warns(HeadwaterWarning, match="fewer than a half and it keeps a trace"):
        whole = build_index(denoiser, data, tmp_path / "whole", reuse=at / "before", **CURVED)
    assert len(ids) == ALL - FIRST + ALL and whole.manifest.metric == index.manifest.metric
    for name in ("features", "scale", "position"):
        now, anew = (torch.cat([s[name] for s in shards(i.path)]) for i in (index, whole))
        (before,) = (shard[name] for shard in shards(at / "before"))
        assert torch.equal(now, anew) and torch.equal(now[:FIRST], before)


def test_an_index_says_to_which_images_its_curvature_was_fitted(curved, denoiser):
    at, data = curved
    told = run("info", at / "more")
    assert f"targets of the model, {FITTED}" in " ".join(told.out.split())
    assert f"curvature is {FITTED} |" in card_of(
        at / "more", read_manifest(at / "more"), "s3://a/b"
    )
    question = Image("a red star", f"{data.source}/train-00009.png", draws=2)
    answer = Index.open(at / "more", denoiser).attribute(question, method="ekfac")
    assert answer.provenance["curvature"] == FITTED and answer.scores.shape == (ALL,)
    before = Index.open(at / "before", denoiser).attribute(question, method="ekfac")
    np.testing.assert_array_equal(answer.scores[:FIRST], before.scores)
    assert "curvature" not in before.provenance


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_append_that_was_killed_goes_on(curved, denoiser, tmp_path, monkeypatch, after):
    """In the first file of the curvature, in the second, and after a shard."""
    (at, data), out, steps = curved, tmp_path / "index", []

    def stopping(real, *of):
        made = real(*of)
        steps.append(made)
        if len(steps) == after:
            raise KeyboardInterrupt
        return made

    again = partial(build_index, denoiser, data, out, **CURVED)
    with monkeypatch.context() as patch:
        for module, name in ((reuse.shutil, "copyfile"), (workers.shards, "write_shard")):
            patch.setattr(module, name, partial(stopping, getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            again(reuse=at / "before")
    if after == 1:
        assert not out.exists()  # nothing was whole
    if after == 2:
        with pytest.raises(StoreError, match="images of another index: name that with --reuse"):
            again()
    again(reuse=at / "before" if after < 3 else None)
    assert (
        files(out).items() >= {n: b for n, b in files(at / "more").items() if n[0] == "f"}.items()
    )
    assert Index.open(out).manifest == Index.open(at / "more").manifest and verify(out) == []


def test_images_that_went_leave_a_trace(curved, denoiser, tmp_path, monkeypatch):
    """Of an index that has taken its curvature over itself."""
    at, data = curved
    ids, less = computed(monkeypatch), data.take([0, *range(2, ALL)])
    left = (
        f"fitted to {FIRST - 1} of the {ALL - 1} images, and to images that are not among them: 1"
    )
    with pytest.warns(HeadwaterWarning, match=rf"{left} \(it keeps a trace.*leave out --reuse"):
        index = build_index(denoiser, less, tmp_path / "less", reuse=at / "more", **CURVED)
    assert ids == [] and verify(index.path) == []
    rewrite_manifest(index.path, data={**index.manifest.data, "fitted": {"left": "all"}})
    with pytest.raises(StoreError, match="to which images its curvature was fitted"):
        Index.open(index.path, denoiser).attribute(Image("a star", draws=2, steps=3))


def test_workers_compute_in_that_metric_too(curved, denoiser, tmp_path):
    at, data = curved
    how = {"reuse": at / "before", "executor": Executor(jobs=2)}
    index = build_index(denoiser, data, tmp_path / "new", **how, **CURVED)
    assert torch.equal(rows(index.path), rows(at / "more"))


def test_a_curvature_that_cannot_be_taken_over_is_refused(curved, denoiser, tmp_path):
    at, data = curved
    again = partial(build_index, denoiser, data, **CURVED)
    old = shutil.copytree(at / "before", tmp_path / "old")
    (old / "curvature" / "bases.safetensors").unlink()
    with pytest.raises(StoreError, match=r"old.curvature is missing.*`headwater repair"):
        again(tmp_path / "new", reuse=old)
    assert not (tmp_path / "new" / "features").exists()
    rewrite_manifest(old, metric="00" * 16)
    with pytest.raises(MismatchError, match="begun with another curvature than that of"):
        again(at / "more", reuse=old)
    whole = Index.open(at / "before").manifest
    assert again(at / "more", reuse=at / "before").manifest.metric == whole.metric
    lost = shutil.copytree(at / "more", tmp_path / "lost")
    (lost / "curvature" / "moments.safetensors").unlink()
    assert [f.needs for f in verify(lost)] == ["the index that it was taken over from"]
    with pytest.raises(StoreError, match="images of another index: name that with --reuse"):
        repair(lost)
    again(lost, reuse=at / "before")
    assert verify(lost) == [] and torch.equal(rows(lost), rows(at / "more"))
