"""Rows read part by part: the numbers of one process, whatever stops, whoever goes on.

Workers that are processes of their own read them in `runtime/test_executor.py`.
"""

import json
import os
import pickle
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.brute_force import inverse
from support.command_line import assert_refused, headwater
from support.index_files import DIM, OPTIONS, ROWS, eleven_shards

from headwater import Concept, Denoiser, Feature, Index, Session, build_index, load_dataset
from headwater.attribution import gram, kernel, passes, resources
from headwater.attribution.scores import RULES
from headwater.errors import StoreError
from headwater.queries.image import Image
from headwater.runtime.executor import Executor
from headwater.storage import cache
from headwater.storage.blocks import read_part
from headwater.upkeep.remove import remove

TWO = Executor(jobs=2)
CLOSE = dict(rtol=1e-5, atol=1e-6)
OUT = (3, 17, 64, 69, *range(80, 90))  # all of a shard, and some of others


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model, tiny_images) -> Path:
    return eleven_shards(tmp_path_factory.mktemp("passes"), tiny_model, tiny_images)


@pytest.fixture
def folder(world, tmp_path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "index"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts of two or three shards."""
    monkeypatch.setattr(passes, "ROWS_A_FEATURE", 3)


@pytest.fixture
def here(monkeypatch) -> list[int]:
    """Workers are this process, but get all that they know by pickle; how many items each run had.

    Other rounding than that of one process shows, as that of another machine would.
    """
    runs = []

    def run(executor, start, items, device="cpu"):
        runs.append(len(items))
        work = pickle.loads(pickle.dumps(start))()
        for item in reversed(pickle.loads(pickle.dumps(items))):  # in any order
            yield pickle.loads(pickle.dumps(work(item)))

    monkeypatch.setattr(passes, "run", run)
    return runs


def kernels(folder, executor, outside):
    """A kernel by one process and one by workers, neither of which finds what the other keeps."""
    other = Path(shutil.copytree(folder, folder.parent / "other"))
    sessions = Session.open(folder), Session.open(other, executor)
    return [each.kernel_without(outside) if outside else each.kernel() for each in sessions]


def rows_of(folder) -> torch.Tensor:
    return torch.cat(list(Index.open(folder).blocks()))


def ids(rows):
    return [f"{row:03d}" for row in rows]


# --- the same numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("outside", [(), (0, 25, 26, 102)])
@pytest.mark.parametrize("removed", ["none", "some", "before"])
def test_a_kernel_by_workers_is_that_of_one_process(folder, here, removed, outside, monkeypatch):
    """`before`: the matrix of all rows is there, and made smaller."""
    monkeypatch.setattr(passes, "ROWS_A_FEATURE", 1)
    if removed == "before":
        Session.open(folder).kernel().gram()
    if removed != "none":
        remove(folder, ids(OUT))
    one, many = kernels(folder, TWO, ids(outside))
    found = many.gram().matrix
    torch.testing.assert_close(found, one.gram().matrix, rtol=1e-12, atol=1e-13)
    phi = rows_of(folder).double()
    own = phi if one.inside is None else phi[one.inside]
    assert len(own) == ROWS - len(OUT) * (removed != "none") - len(outside)
    torch.testing.assert_close(found, own.T @ own / len(own), rtol=1e-5, atol=1e-6)
    assert here, "nothing was asked of workers"

    psi, ratios = torch.randn(3, DIM), [0.1, 0.5, 2.0]
    torch.testing.assert_close(many.dot(psi), one.dot(psi), **CLOSE)
    scores = many.trak(psi, ratios)
    torch.testing.assert_close(scores, one.trak(psi, ratios), **CLOSE)
    for ratio, ours in zip(ratios, scores.double(), strict=True):
        exact = psi.double() @ inverse(own, ratio) @ phi.T
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-4)
    for rule in RULES.values():
        mine, other = (rule.score(kernel, psi, [0.1])[0.1] for kernel in (many, one))
        torch.testing.assert_close(mine.answer(), other.answer(), **CLOSE)


@pytest.mark.parametrize("jobs", [1, 2, 5, 40])
def test_every_row_is_in_one_part_and_a_pass_is_one_run(folder, here, jobs):
    index = Index.open(folder)
    found = passes.measured(index, Executor("ray", jobs), sums_of_rows)
    assert here == [min(11, passes.PARTS_A_WORKER * jobs)]
    torch.testing.assert_close(found, rows_of(folder).sum(1))


def sums_of_rows(rows):
    return rows.sum(1)


def test_what_captions_ask_is_a_sum_over_rows(folder, here):
    remove(folder, ids(OUT))
    weights = torch.randn(ROWS - len(OUT))
    found = passes.weighted_sum(Index.open(folder), TWO, weights)
    exact = weights.double() @ rows_of(folder).double()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_answers_of_checkpoints_are_those_of_one_process(tmp_path, tiny_model, tiny_images, here):
    """Several questions, draws that are added until they are enough, a sweep, captions."""
    data, model = load_dataset(tiny_images), Denoiser.load(tiny_model)
    options = {**OPTIONS, "method": "d-trak", "checkpoints": [tiny_model]}
    index = build_index(model, data, tmp_path / "index", **options)
    image = Image("a red star", file=tiny_images / "train-00011.png", draws=None)
    asked = [
        ([image, Image("a star", draws=2, steps=2)], dict(damping=[0.1, 2.0])),
        (Concept("a yellow house", "yellow"), dict(method="caption-d-trak")),
    ]
    one = [answers(Session(index).attribute(query, **how)) for query, how in asked]
    shutil.rmtree(index.path / "kernels")
    shutil.rmtree(index.path / "checkpoints" / "0" / "kernels")
    assert not here
    session = Session(index, TWO)
    for (query, how), before in zip(asked, one, strict=True):
        here.clear()
        for mine, other in zip(answers(session.attribute(query, **how)), before, strict=True):
            scale = np.abs(other.scores).max()
            np.testing.assert_allclose(mine.scores, other.scores, rtol=1e-5, atol=1e-5 * scale)
            assert mine.sweep.keys() == other.sweep.keys()
        assert len(here) >= 2, "each checkpoint is read by workers"


def answers(found):
    return found if isinstance(found, list) else [found]


def test_fewer_rows_than_features_are_read_by_one_process(tmp_path, tiny_model, tiny_images, here):
    model, data = Denoiser.load(tiny_model), load_dataset(tiny_images).first(5)
    index = build_index(model, data, tmp_path / "index", method="trak", **OPTIONS)
    np.save(tmp_path / "asked.npy", np.ones((1, DIM), np.float32))
    said, query = [], Feature(tmp_path / "asked.npy")
    found = Session(index, TWO).attribute(query, note=said.append)
    assert said == ["there are fewer rows than features, so --engine and --jobs have no effect"]
    assert not here and (found.scores == Session(index).attribute(query).scores).all()
    said.clear()
    Session(index, TWO).attribute(query, method="random", note=said.append)
    assert said == ["random reads no rows, so --engine and --jobs have no effect"]


def test_the_command_asks_by_workers(folder, tmp_path, here, monkeypatch):
    """Where the answer lies does not depend on who computes it."""
    np.save(tmp_path / "asked.npy", torch.randn(2, DIM).numpy())
    asked = ("concept", folder, "--feature", tmp_path / "asked.npy", "--json")
    places, found = [], []
    monkeypatch.chdir(tmp_path)
    for how in ((), ("--engine", "local", "--jobs", 2)):
        made = headwater(*asked, *how)
        assert made.code == 0, made.err
        places.append(json.loads(made.out)["out"])
        (scores,) = Path(places[-1]).rglob("scores.parquet")
        found.append(pq.read_table(scores)["score"].to_numpy())
        shutil.rmtree(folder / "kernels")
        assert bool(here) == bool(how)
    assert places[0] == places[1] and len(found[0]) == ROWS
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
    assert_refused(headwater(*asked, "--engine", "spark"), "'spark' is not one of local, ray")
    assert_refused(headwater(*asked, "--jobs", 0), "--jobs 0 must be at least 1")


# --- what stops, and goes on ----------------------------------------------------------------------


class Killed(BaseException):
    pass


def killed_after(blocks):
    """Reads so many blocks in all, and then is no more."""
    left = [blocks]

    def read(folder, part):
        for block in read_part(folder, part):
            if not left[0]:
                raise Killed
            left[0] -= 1
            yield block

    return read


def counted(read):
    def reading(folder, part):
        for block in read_part(folder, part):
            read.append(len(block))
            yield block

    return reading


def make(folder, executor) -> torch.Tensor:
    return Session.open(folder, executor).kernel().gram().matrix


@pytest.mark.parametrize("then", [Executor(jobs=2), Executor("ray", 7), Executor()])
def test_a_matrix_that_was_killed_goes_on_with_any_number_of_workers(
    folder, here, monkeypatch, then
):
    """What is whole is not read again, and nothing is left behind."""
    monkeypatch.setattr(gram, "SAVE_EVERY", -1)
    phi = rows_of(folder).double()
    with monkeypatch.context() as patch:
        patch.setattr(passes, "read_part", killed_after(7))
        with pytest.raises(Killed):
            make(folder, TWO)
    parts = sorted((folder / "kernels" / "parts").iterdir())
    (number,) = here
    assert number == 4 and len(parts) == 3  # two that are whole, and one that was begun

    read = []
    monkeypatch.setattr(passes, "read_part", counted(read))
    found = make(folder, then)
    torch.testing.assert_close(found, phi.T @ phi / ROWS, rtol=1e-5, atol=1e-6)
    assert sum(read) == (0 if then == Executor() else 50)
    assert [path.suffix for path in (folder / "kernels").iterdir()] == [".safetensors"]


def test_what_is_in_a_sum_is_not_computed_again(folder, here, monkeypatch):
    monkeypatch.setattr(gram, "SAVE_EVERY", -1)
    phi = rows_of(folder).double()
    with monkeypatch.context() as patch:
        patch.setattr(passes, "read_part", killed_after(1))
        with pytest.raises(Killed):
            make(folder, TWO)

    def spoilt(folder, part):
        """The first block of the last part, which was in the sum, is no number any more."""
        last = part.manifest.shards[-1].first == 100
        for number, block in enumerate(read_part(folder, part)):
            yield block * torch.nan if last and number == 0 else block

    monkeypatch.setattr(passes, "read_part", spoilt)
    torch.testing.assert_close(make(folder, TWO), phi.T @ phi / ROWS, rtol=1e-5, atol=1e-6)


def test_a_part_that_another_command_has_begun_is_not_taken_for_whole(folder, here, monkeypatch):
    monkeypatch.setattr(gram, "SAVE_EVERY", -1)
    phi, run = rows_of(folder).double(), passes.run

    def then_begun(executor, start, items, device="cpu"):
        """The other command had found no part yet."""
        yield from run(executor, start, items, device)
        with monkeypatch.context() as patch:
            patch.setattr(cache, "read", lambda *_: None)
            for _, part in items:
                patch.setattr(passes, "read_part", killed_after(1))
                with suppress(Killed):
                    passes.make_product(folder, "cpu", part)

    monkeypatch.setattr(passes, "run", then_begun)
    found = make(folder, TWO)
    torch.testing.assert_close(found, phi.T @ phi / ROWS, rtol=1e-5, atol=1e-6)
    assert [path.suffix for path in (folder / "kernels").iterdir()] == [".safetensors"]


def test_what_is_less_than_two_parts_is_left_to_one_process(folder, here, monkeypatch):
    monkeypatch.setattr(passes, "ROWS_A_FEATURE", 10)
    phi = rows_of(folder).double()
    found = make(folder, TWO)
    torch.testing.assert_close(found, phi.T @ phi / ROWS, rtol=1e-5, atol=1e-6)
    assert not here


def test_rows_are_measured_on_the_cpu_where_a_gpu_has_no_room(folder, monkeypatch):
    index, real, asked = Index.open(folder), Index.scan, []

    def scan(index, device="cpu", rows=None):
        asked.append((device, rows))
        for number, block in enumerate(real(index)):
            if device != "cpu" and number == 2:
                raise torch.OutOfMemoryError("in the middle")
            yield block

    monkeypatch.setattr(Index, "scan", scan)
    psi = torch.randn(2, DIM)
    found = passes.measured_on(index, "cuda", kernel.row_dots, psi)
    torch.testing.assert_close(found, psi @ torch.cat(list(index.blocks())).T, **CLOSE)
    # a GPU is given whole shards, a CPU what stays in its cache
    assert asked == [("cuda", None), ("cpu", passes.rows_at_a_time(DIM, [psi]))]


def test_apple_s_gpus_have_no_sums_of_float64(folder, monkeypatch):
    session, places = Session(Index.open(folder)), []

    def measured_on(index, device, measure, *handed):
        places.append(device)
        return torch.zeros(1, ROWS)

    monkeypatch.setattr(resources, "measured_on", measured_on)
    for device in ("mps", "cuda:1", "cpu"):
        monkeypatch.setattr(Session, "device", device)
        session.kernel().dot(torch.zeros(1, DIM))
    assert places == ["cpu", "cuda:1", "cpu"]


def test_a_matrix_begun_by_one_process_leaves_nothing_to_workers(folder, here, monkeypatch):
    monkeypatch.setattr(gram, "SAVE_EVERY", -1)
    real = Index.scan

    def scan(index, *on):
        for number, block in enumerate(real(index)):
            if number == 2:
                raise Killed
            yield block

    with monkeypatch.context() as patch:
        patch.setattr(Index, "scan", scan)
        with pytest.raises(Killed):
            make(folder, Executor())
    assert len(list((folder / "kernels").iterdir())) == 1
    make(folder, TWO)
    assert len(list((folder / "kernels").iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
def test_a_part_that_is_damaged_is_made_again(folder, here, monkeypatch, damage):
    """Before its worker looks, or after."""
    phi = rows_of(folder).double()
    run = passes.run

    def then_damaged(*args):
        yield from run(*args)
        if len(here) == 1:
            path = min((folder / "kernels" / "parts").iterdir())
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content[:-8] if damage == "cut" else content)
            if damage == "removed":
                path.unlink()

    monkeypatch.setattr(passes, "run", then_damaged)
    found = make(folder, TWO)
    assert here == [4, 1]
    torch.testing.assert_close(found, phi.T @ phi / ROWS, rtol=1e-5, atol=1e-6)


def test_a_part_that_was_damaged_meanwhile_is_made_again(folder, here, monkeypatch):
    monkeypatch.setattr(gram, "SAVE_EVERY", -1)
    phi = rows_of(folder).double()
    with monkeypatch.context() as patch:
        patch.setattr(passes, "read_part", killed_after(8))
        with pytest.raises(Killed):
            make(folder, TWO)
    for path in (folder / "kernels" / "parts").iterdir():
        path.write_bytes(path.read_bytes()[:-8])
    read = []
    monkeypatch.setattr(passes, "read_part", counted(read))
    torch.testing.assert_close(make(folder, TWO), phi.T @ phi / ROWS, rtol=1e-5, atol=1e-6)
    assert sum(read) == ROWS


def test_parts_that_nobody_goes_on_with_are_forgotten(folder, here):
    parts = folder / "kernels" / "parts"
    for name in ("old", "new"):
        cache.store(parts, name, {"gram": torch.eye(2)}, {})
    week = time.time() - passes.FORGOTTEN
    os.utime(cache.path_of(parts, "old"), (week, week))
    make(folder, TWO)
    assert [*parts.iterdir()] == [cache.path_of(parts, "new")]  # somebody may be at it


def test_where_parts_cannot_be_kept_that_is_said(folder, here):
    (folder / "kernels").mkdir()
    (folder / "kernels" / "parts").write_text("no folder")
    with pytest.raises(StoreError, match=r"cannot write .*: leave out --engine and --jobs") as said:
        make(folder, TWO)
    assert "\n" not in str(said.value)
    assert make(folder, Executor()).shape == (DIM, DIM)


def test_a_worker_verifies_what_it_reads(folder, here):
    path = folder / "features" / "00004.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for asked in (lambda s: s.kernel().gram(), lambda s: s.kernel().dot(torch.ones(1, DIM))):
        with pytest.raises(StoreError, match=r"00004.safetensors is damaged .* `headwater repair"):
            asked(Session.open(folder, TWO))
