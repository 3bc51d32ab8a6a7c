"""Images removed: answers are those of an index without them, and as before when they are back."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.command_line import FAST, assert_refused
from support.command_line import headwater as run
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Concept, Denoiser, Index, Session, build_index, load_dataset
from headwater.attribution import resources as resources_module
from headwater.errors import QueryError, StoreError
from headwater.queries.image import Image
from headwater.storage.claims import building
from headwater.storage.manifest import read_manifest
from headwater.upkeep.remove import remove, restore
from headwater.upkeep.repair import repair
from headwater.upkeep.verify import verify

OUT = (3, 17, 64, 69)  # in both shards
LEFT = [row for row in range(70) if row not in OUT]
SMALL = {"timesteps": 1, "dim": 16, "method": "trak", "batch_size": 64}
QUERY = Concept("a red star", "star", draws=3)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("remove") / "images", 70)


@pytest.fixture(scope="module")
def denoiser(tiny_model) -> Denoiser:
    return Denoiser.load(tiny_model, "cpu")


@pytest.fixture(scope="module")
def indexes(tmp_path_factory, denoiser, images) -> tuple[Path, Path]:
    """All images, and those that are to be left."""
    place, data = tmp_path_factory.mktemp("remove"), load_dataset(images)
    whole = build_index(denoiser, data, place / "whole", **SMALL).path
    return whole, build_index(denoiser, data.take(LEFT), place / "left", **SMALL).path


@pytest.fixture
def index(tmp_path, indexes) -> Path:
    return Path(shutil.copytree(indexes[0], tmp_path / "index"))


def ids(index: Path, rows=OUT) -> list[str]:
    samples = Index.open(index).samples
    return [samples[row].id for row in rows]


def ask(folder: Path, denoiser, images, query=QUERY, rows=None, **options):
    data = load_dataset(images)
    data = data if rows is None else data.take(rows)
    return Session.open(folder, denoiser=denoiser, training_set=data).attribute(query, **options)


PICTURE = Image("a red star", seed=1, draws=2, steps=4)
ASKED = {
    "concept-trak-a": QUERY, "trak": PICTURE, "relative-influence": PICTURE,
    "gradient-cosine": PICTURE, "nda": PICTURE, "presence": QUERY,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The model takes")  # that of presence has learned nothing
@pytest.mark.parametrize("method", ASKED)
def test_answers_are_those_of_an_index_without_them(index, indexes, denoiser, images, method):
    """Asked before too, so that what is kept of all images lies there."""
    ask(index, denoiser, images, ASKED[method], method=method)
    assert remove(index, ids(index)) == ids(indexes[0])
    found = ask(index, denoiser, images, ASKED[method], method=method)
    expected = ask(indexes[1], denoiser, images, ASKED[method], LEFT, method=method)
    assert [s.id for s in found.index.samples] == [s.id for s in expected.index.samples]
    assert_same(found, expected)


@pytest.mark.parametrize("method", ["das", "caption-d-trak"])
def test_of_other_rows_too(tmp_path, denoiser, images, method):
    data, query = load_dataset(images), PICTURE if method == "das" else QUERY
    options = {**SMALL, "method": method}
    out = build_index(denoiser, data, tmp_path / "index", **options).path
    left = build_index(denoiser, data.take(LEFT), tmp_path / "left", **options)
    remove(out, ids(out))
    assert_same(ask(out, denoiser, images, query), Session(left).attribute(query))


def assert_same(found, expected) -> None:
    """Rows that were computed in other batches are stored with other last bits, in float16."""
    largest = np.abs(expected.scores).max()
    assert np.abs(found.scores - expected.scores).max() < 1e-3 * largest


def test_the_gram_matrix_is_made_smaller(index, denoiser, images, monkeypatch):
    ask(index, denoiser, images)  # keeps that of all
    remove(index, ids(index))
    made, real = [], resources_module.downdated

    def downdated(*args):
        made.append(args[1])
        return real(*args)

    monkeypatch.setattr(resources_module, "downdated", downdated)
    session = Session.open(index, denoiser=denoiser, training_set=load_dataset(images))
    matrix = session.kernel().gram().matrix
    rows = torch.cat(list(session.index.blocks())).double()
    assert made == [70] and len(rows) == 66
    assert torch.allclose(matrix, rows.T @ rows / 66, rtol=1e-5, atol=1e-7 * matrix.abs().max())
    remove(index, [s.id for s in session.index.samples[:40]])  # less than half is left
    session = Session.open(index, denoiser=denoiser, training_set=load_dataset(images))
    assert session.kernel().gram().matrix.shape == (16, 16) and made == [70]


def test_likeness_is_of_those_left(index, denoiser, images):
    """What is kept for all images is not taken for fewer, nor for other ones."""
    query = Image("a red star", images / "train-00011.png", draws=2)
    for gone in (None, (0,), (1,)):
        if gone is not None:
            restore(index)
            remove(index, ids(index, gone))
        nearest = ask(index, denoiser, images, query, candidates="pixel:1")
        assert nearest.top(1)[0].id == "train-00011.png"


def test_they_come_back(index, denoiser, images):
    before = ask(index, denoiser, images)
    left = index / "index.json.0123456789ab.part"  # by one that was killed
    left.write_text("{")
    remove(index, ids(index), why="opted out")
    remove(index, where=["id is train-00000.png"])
    assert not left.exists()
    first, second = read_manifest(index).removed
    assert first.why == "opted out" and first.rows == OUT and second.rows == (0,)
    assert len(Index.open(index)) == 65 and verify(index) == []
    assert restore(index) == 5 and restore(index) == 0
    after = ask(index, denoiser, images)
    assert (after.scores == before.scores).all() and len(after.index) == 70


def test_of_checkpoints_too(tmp_path, denoiser, images):
    other = tiny_pipeline(tmp_path / "other", seed=1)
    data, out = load_dataset(images), tmp_path / "index"
    build_index(denoiser, data, out, checkpoints=[other], **SMALL)
    left = build_index(denoiser, data.take(LEFT), tmp_path / "left", checkpoints=[other], **SMALL)
    remove(out, ids(out))
    found, expected = ask(out, denoiser, images), Session(left).attribute(QUERY)
    assert_same(found, expected)


def test_the_same_command_leaves_them_out(index, denoiser, images):
    remove(index, ids(index))
    assert len(build_index(denoiser, load_dataset(images), index, **SMALL)) == 66
    whole = build_index(denoiser, load_dataset(images), index, overwrite=True, **SMALL)
    assert len(whole) == 70 and not (index / "removed.json").exists()


def test_repair_knows_them(index):
    remove(index, ids(index))
    (index / "index.json").write_text("{")
    repair(index)
    assert read_manifest(index).removed_rows == set(OUT) and len(Index.open(index)) == 66
    (index / "index.json").write_text("{")
    (index / "removed.json").write_text('[{"rows": [-1]}]')
    with pytest.raises(StoreError, match=r"removed\.json is damaged too: put that back"):
        repair(index)


def test_a_shard_that_is_made_again_is_the_same(index, indexes):
    remove(index, ids(index))
    shard = index / "features/00001.safetensors"
    shard.unlink()
    repair(index)
    assert shard.read_bytes() == (indexes[0] / "features/00001.safetensors").read_bytes()
    assert len(Index.open(index)) == 66


def test_refusals(index, indexes):
    with pytest.raises(QueryError, match="nothing says which images are removed"):
        remove(index)
    with pytest.raises(QueryError, match=r"no image of .* would be left"):
        remove(index, where=["id contains train"])
    with pytest.raises(QueryError, match="1 of 1 ids are of no image"):
        remove(index, ["nobody"])
    remove(index, ids(index))
    with pytest.raises(QueryError, match="4 of 4 ids are of no image"):
        remove(index, ids(indexes[0]))
    with building(index):
        with pytest.raises(StoreError, match=rf"being written by process {os.getpid()} on"):
            restore(index)


def test_the_command(tmp_path, tiny_model, tiny_images):
    out, file = tmp_path / "index", tmp_path / "ids.txt"
    assert run("index", tiny_model, tiny_images, out, *FAST).code == 0
    file.write_text("train-00001.png\ntrain-00002.png\n")
    would = run("remove", out, "--ids", file, "--dry-run")
    assert would.out.splitlines()[0] == f"would remove 2 image(s) of {out}"
    assert run("remove", out, "--ids", file, "--why", "opted out").out.splitlines() == [
        f"removed 2 image(s) of {out}", "  train-00001.png", "  train-00002.png",
    ]  # fmt: skip
    assert json.loads(run("info", out, "--json").out)["removed"] == 2
    many = run("remove", out, "--where", "id matches train-0000*").out.splitlines()
    assert many[-1] == "  train-00009.png" and len(many) == 9
    assert_refused(run("remove", out, "--restore", "--ids", file), "does not go with --restore")
    assert_refused(run("remove", out), "nothing says which images are removed: give --ids or")
    assert run("remove", out, "--restore").out == f"10 image(s) of {out} are back\n"
